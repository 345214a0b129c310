"""Files of weights, read by what they hold (not by their name) and without running any of it; and written.

| file | read by | needs torch |
| safetensors; a Hugging Face index of several | safetensors checks it, NumPy maps it | no |
| npz (big_vision) | NumPy, pickles refused | no |
| TorchScript archive (OpenAI's .pt) | `torchscript`: its program is never run | no |
| torch.save, both formats | `torch_files`: torch.load with weights_only | yes |
"""

import contextlib
import dataclasses
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from clip_jax.interop.files import torch_files, torchscript
from clip_jax.interop.rules import State

_SAFETENSORS: dict[str, Any] = {  # in the order in which a file holds them
    "U64": np.uint64,
    "I64": np.int64,
    "F64": np.float64,
    "F32": np.float32,
    "U32": np.uint32,
    "I32": np.int32,
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "U16": np.uint16,
    "I16": np.int16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_TORCH_SUFFIXES = (".pt", ".pth", ".bin")
_LEGACY_TORCH = (
    b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6: the pickled number 0x1950a86a20f9469cfc6c
)
_MOST_HEADER = 10**8  # bytes; the limit of safetensors itself

# How files that are no weights begin -> what they are, and what to do.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the weights themselves; run `git lfs pull` where it was cloned",
    ),
    (b"<", "a page of HTML or XML, so the download failed; open the address in a browser, and download it again"),
    (b"{", "JSON, not weights; give the file of weights"),
    (b"\x93NUMPY", "a single NumPy array; weights are several, in one .npz"),
    (b"\x89HDF", "HDF5 (Keras); use the safetensors of the same model"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensors:
    """state: arrays by name, in the dtypes of the file and perhaps read-only: the file's top level or, where that wraps a
    state dict as training scripts do (`state_dict`, `model_state_dict`, `model`), that dict. extras: the plain values
    beside them (epoch, name), the metadata of a safetensors file; never an optimizer's arrays."""

    state: State
    extras: dict[str, Any]


def read(path: Path) -> Tensors:
    """The weights in a file. Raises ValueError, in one line: what was found there and what to do."""
    with _errors(path):
        begin, size = _begin(path)
        if begin.startswith(b"PK"):
            return _zip(path)
        if begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") <= _MOST_HEADER:
            return _safetensors(path)
        if begin[:1] == b"{" and b'"weight_map"' in path.read_bytes():
            return read_sharded(path)
        if begin[:1] == b"\x80":
            if begin[2:].startswith(_LEGACY_TORCH):
                return _torch(path, zipped=False)
            raise ValueError("it is a pickle, but not of torch.save; " + torch_files.refusal("any Python object"))
        raise ValueError(f"it is {_described(begin, size)}")


def read_sharded(index: Path) -> Tensors:
    """The weights in several files, by the index beside them ({"weight_map": {array: file}}), as Hugging Face splits them.

    Raises ValueError for an index that is damaged or names files elsewhere, for files that are missing and for arrays that
    are not where the index says.
    """
    with _errors(index):
        try:
            where: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
            names = sorted(set(where.values()))
            plain = all(Path(name).name == name for name in names)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is no index of weights ({type(error).__name__}: {error})") from error
        if not plain:
            raise ValueError(f"it names files outside of its folder: {', '.join(names[:3])}")
        missing = [name for name in names if not (index.parent / name).is_file()]
        if missing:
            raise ValueError(f"{len(missing)} of its {len(names)} files are missing: {', '.join(missing[:8])}")
    parts = {name: read(index.parent / name) for name in names}
    lost = [f"{key} in {name}" for key, name in where.items() if key not in parts[name].state]
    if lost:
        raise ValueError(f"{index} names {len(lost)} arrays that are not there: {', '.join(lost[:8])}")
    extras = {key: value for part in parts.values() for key, value in part.extras.items()}
    return Tensors(state={key: parts[name].state[key] for key, name in where.items()}, extras=extras)


def write(path: Path, state: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """The whole file or the one before it: torch.save's for .pt, .pth and .bin, safetensors for any other name.

    metadata: of a safetensors file, beside {"format": "pt"}, which other libraries ask for; a torch file has no place for
    it. Of a safetensors file one array at a time is copied. Raises ValueError where it cannot be written.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with _errors(path, "written"):
            if path.suffix in _TORCH_SUFFIXES:
                torch_files.write(beside, state)
            else:
                _write_safetensors(beside, state, {"format": "pt", **metadata})
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors(path: Path, done: str = "read") -> Iterator[None]:
    """What goes wrong with a file, as one line with its name."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be {done}: {error.strerror or error}") from error
    except torchscript.Refused as error:
        raise ValueError(f"{path} is not read: {torch_files.refusal(str(error))}") from error
    except (zipfile.BadZipFile, EOFError) as error:
        reason = str(error) or "it ends too early"
        raise ValueError(f"{path} is damaged or cut short ({reason}); copy or download it again") from error
    except (ValueError, RuntimeError) as error:  # zipfile's RuntimeError: a member is encrypted, or oddly compressed
        raise ValueError(f"{path} is not {done}: {error}") from error


def _begin(path: Path) -> tuple[bytes, int]:
    """(the first bytes, the size) of a file."""
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.is_file())
        raise ValueError(f"it is a folder; give one of its files ({', '.join(files[:8]) or 'it has none'})")
    with path.open("rb") as file:
        return file.read(512), path.stat().st_size


def _described(begin: bytes, size: int) -> str:
    if not size:
        return "empty (0 bytes); copy or download it again"
    for start, what in _OTHERS:
        if begin.lstrip().startswith(start):
            return what
    if begin[257:262] == b"ustar":
        return "a tar archive; unpack it first, and if it is a file of torch before 0.1.10, save it again"
    return f"no file of weights: it has {size:,} bytes and begins with {begin[:12]!r}; safetensors, npz and torch files are"


def _zip(path: Path) -> Tensors:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if torchscript.root_of(names) is not None:
        return Tensors(state=torchscript.read(path), extras={})
    if any(name.endswith("/data.pkl") for name in names):
        return _torch(path, zipped=True)
    if names and all(name.endswith(".npy") for name in names):
        return Tensors(state=_npz(path), extras={})
    if any(name.endswith("/model.json") for name in names):
        raise ValueError("it is a TorchScript archive of torch before 1.4; load it there and save its state dict")
    raise ValueError(f"it is a zip of other things than weights: {', '.join(names[:5]) or 'nothing'}")


def _torch(path: Path, *, zipped: bool) -> Tensors:
    state, extras = torch_files.read(path, zipped=zipped)
    return Tensors(state=state, extras=extras)


def _npz(path: Path) -> State:
    state: State = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            try:
                array = arrays[name]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise ValueError(f"{name} in it is damaged ({error}); copy or download it again") from error
                raise ValueError(torch_files.refusal(f"the Python objects in {name}")) from error
            state[name] = array.view(ml_dtypes.bfloat16) if array.dtype == "V2" else array  # so NumPy saves bfloat16
    return state


def _safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as checked:
            metadata = checked.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"it is a damaged safetensors file ({error}); copy or download it again") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    content = (
        np.memmap(path, np.uint8, "r", offset=8 + length) if path.stat().st_size > 8 + length else np.empty(0, np.uint8)
    )
    state: State = {}
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(f"{key} in it has dtype {entry['dtype']}; there are {', '.join(_SAFETENSORS)}")
        begin, end = entry["data_offsets"]
        state[key] = np.asarray(content[begin:end]).view(_SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
    return Tensors(state=state, extras=dict(metadata))


def _write_safetensors(path: Path, state: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """As safetensors.save_file orders and pads, which must have contiguous copies of all arrays at once."""
    names = {np.dtype(dtype): name for name, dtype in _SAFETENSORS.items()}
    unknown = sorted(f"{key} ({array.dtype})" for key, array in state.items() if array.dtype not in names)
    if unknown:
        raise ValueError(f"safetensors has no such dtype: {', '.join(unknown[:8])}")
    ranks = {dtype: rank for rank, dtype in enumerate(names)}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    keys = sorted(state, key=lambda key: (ranks[state[key].dtype], key))
    for key in keys:
        begin, end = end, end + math.prod(state[key].shape) * state[key].itemsize
        header[key] = {"dtype": names[state[key].dtype], "shape": state[key].shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in keys:
            file.write(state[key].reshape(-1).view(np.uint8).data)  # in C order: a copy where it has another
