"""PyTorch's pickled weights, read with weights_only and written; needs `pip install 'clip_jax[torch]'`."""

import importlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from clip_jax.interop.rules import State

# Wrappers around a state dict, as training scripts save them.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# torch dtypes that NumPy lacks -> the integers of the same size that both have, and the array type that they become.
_VIEWED = {
    "bfloat16": ("int16", ml_dtypes.bfloat16),
    "float8_e4m3fn": ("uint8", ml_dtypes.float8_e4m3fn),
    "float8_e5m2": ("uint8", ml_dtypes.float8_e5m2),
}
_PLAIN = (bool, int, float, str, type(None))


def read(path: Path, *, zipped: bool) -> tuple[State, dict[str, Any]]:
    """(state dict, plain values beside it) of what torch.save wrote; zipped: the format since torch 1.6, mapped, not copied.

    Raises ValueError for what is no state dict, and for a pickle that wants more than weights, which it names.
    """
    torch = _torch()
    if zipped:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{damaged} in it is damaged (its checksum does not match); copy or download it again")
    mapped = (
        zipped and path.suffix != ".safetensors"
    )  # torch reads a path of that name with safetensors, whatever it holds
    try:
        with path.open("rb") as file:
            found = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # pickle errors, RuntimeError, EOFError, struct.error and more come out of torch.load
        raise ValueError(_reason(error)) from error
    return _unwrapped(found)


def write(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """torch.save of the state dict."""
    torch = _torch()
    with path.open("wb") as file:
        torch.save({key: _to_torch(torch, array) for key, array in state.items()}, file)


def _torch() -> Any:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ValueError(
            "PyTorch's files need torch: pip install 'clip_jax[torch]', or use weights saved as safetensors"
        ) from error
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version and tuple(map(int, version.groups())) < (2, 6):
        raise ValueError(  # CVE-2025-32434
            f"torch {torch.__version__} can be made to run code from a file of weights; pip install 'clip_jax[torch]'"
        )
    return torch


def _reason(error: Exception) -> str:
    """torch's page of advice, which begins with how to run what the file holds, as one line."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    wanted = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"(?:function|class|type) <\w+ '?([\w.]+)", text)
    if wanted:
        return refusal(wanted[1])
    if "Weights only load failed" in text:
        said = re.search(r"(?:WeightsUnpickler error: |\n\n)\s*(\S[^\n]*)", text)
        return refusal(said[1] if said else "a pickle that torch refuses")
    return (
        f"it is damaged or no file of weights ({type(error).__name__}: {text.strip().splitlines()[0] if text else ''})"
    )


def refusal(wanted: str) -> str:
    """Why a pickle is not read."""
    return (
        f"its pickle wants more than weights: {wanted}. It was not run. If you trust where it comes from, save its state "
        "dict again as safetensors, from a Python that may run it"
    )


def _unwrapped(found: Any) -> tuple[State, dict[str, Any]]:
    if not isinstance(found, Mapping):
        raise ValueError(f"it holds a {type(found).__name__}, not a dict of arrays by name")
    wrapper = next((key for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
    inner = found if wrapper is None else found[wrapper]
    state = {key: _to_numpy(key, value) for key, value in inner.items() if hasattr(value, "untyped_storage")}
    if not state:
        keys = ", ".join(map(str, list(found)[:8])) or "none"
        raise ValueError(f"it holds no arrays at its top level, nor under {', '.join(_WRAPPERS)}; its keys are: {keys}")
    if not all(isinstance(key, str) for key in state):
        raise ValueError("its arrays have no names")
    extras = {key: value for key, value in found.items() if isinstance(key, str) and key != wrapper and _plain(value)}
    return state, extras


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, _PLAIN) and _plain(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return type(value) in _PLAIN


def _to_numpy(key: str, tensor: Any) -> np.ndarray:
    torch = _torch()
    if tensor.is_sparse or tensor.is_quantized or tensor.is_meta:
        raise ValueError(f"{key} is a sparse, quantized or empty tensor ({tensor.dtype}); save it dense")
    name = str(tensor.dtype).removeprefix("torch.")
    tensor = tensor.detach()
    if name in _VIEWED:
        integers, dtype = _VIEWED[name]
        return tensor.view(getattr(torch, integers)).numpy().view(dtype)
    try:
        return tensor.numpy()
    except TypeError as error:
        raise ValueError(f"{key} has dtype {name}, which NumPy lacks; save it as float32") from error


def _to_torch(torch: Any, array: np.ndarray) -> Any:
    array = np.require(array, requirements=["C", "W"])  # torch warns of arrays that it may not write to
    for name, (integers, dtype) in _VIEWED.items():
        if array.dtype == dtype:
            return torch.from_numpy(array.view(integers)).view(getattr(torch, name))
    return torch.from_numpy(array)
