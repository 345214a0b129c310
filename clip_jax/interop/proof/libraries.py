"""Outputs of foreign weights by the very library they are for, where that is installed: the best witness there is."""

import contextlib
import copy
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from clip_jax.interop.proof.outputs import Foreign, Outputs, unit

_log = logging.getLogger(__name__)

# layout -> the module that reads it; big_vision is published as source only
LIBRARIES = {"openai": "clip", "open_clip": "open_clip", "huggingface": "transformers"}


def outputs(foreign: Foreign, pixels: np.ndarray, tokens: np.ndarray) -> Outputs | None:
    """What the library gives for normalised f32[B, S, S, 3] and i[B, L], in f32; None where it cannot be imported.

    The folder is opened as the library's users open it; without one, or where the library would not find safetensors
    there, the model is built from the settings and filled with the state. Raises ValueError where the library does not
    take the weights.
    """
    layout = foreign.layout
    if layout not in LIBRARIES:
        return None
    try:
        torch = importlib.import_module("torch")
        library = import_library(layout)
    except Exception as error:  # a broken installation fails in as many ways as there are; it is as good as none
        _log.debug("%s cannot be imported: %s: %s", LIBRARIES[layout], type(error).__name__, error)
        return None
    try:
        model = _MODELS[layout](library, foreign).float().eval()
    except Exception as error:
        raise ValueError(f"{LIBRARIES[layout]} does not take these weights: {type(error).__name__}: {error}") from error
    images = torch.from_numpy(np.array(pixels.transpose(0, 3, 1, 2), np.float32))
    with torch.no_grad():
        image, text, logits = _run(layout, model, images, torch.from_numpy(np.array(tokens, np.int64)))
    return Outputs(
        image=unit(image.numpy()), text=unit(text.numpy()), logits=logits.numpy().astype(np.float64), by=name_of(layout)
    )


def name_of(layout: str) -> str:
    """The package that has the library, and its version: "transformers 5.23.0", "open_clip_torch 3.3.0"."""
    package = metadata.packages_distributions()[LIBRARIES[layout]][0]
    return f"{package} {metadata.version(package)}"


def absence(layout: str) -> str:
    """Why there is no library for a layout, as a message says it: "transformers is not installed"; "" where there never is."""
    names = ("torch", LIBRARIES[layout]) if layout in LIBRARIES else ()
    missing = next((name for name in names if importlib.util.find_spec(name) is None), None)
    return f"{missing} is not installed" if missing else f"{names[1]} cannot be imported" if names else ""


def _run(layout: str, model: Any, images: Any, tokens: Any) -> tuple[Any, Any, Any]:
    """Embeddings of images and texts, and logits of images by texts: torch tensors."""
    if layout == "huggingface":
        found = model(input_ids=tokens, pixel_values=images)
        return found.image_embeds, found.text_embeds, found.logits_per_image
    logits = model(images, tokens)[0] if layout == "openai" else model.get_logits(images, tokens)[0]
    return model.encode_image(images), model.encode_text(tokens), logits


def import_library(layout: str) -> ModuleType:
    """The module that reads a layout. Raises what its import raises where it is missing or broken."""
    if layout == "openai":
        return _openai_model_file()
    _complete_torchvision()
    library = importlib.import_module(LIBRARIES[layout])
    if layout == "huggingface":  # which imports its models when they are first asked for
        importlib.import_module("transformers.models.clip.modeling_clip")
        importlib.import_module("transformers.models.siglip.modeling_siglip")
    return library


def _openai_model_file() -> ModuleType:
    """OpenAI's clip/model.py by itself: the package around it needs torchvision, and a setuptools of its day."""
    package = importlib.util.find_spec("clip")
    folders = package.submodule_search_locations if package is not None else None
    spec = importlib.util.spec_from_file_location("clip_model", Path(folders[0]) / "model.py") if folders else None
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("no package clip")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _complete_torchvision() -> None:
    """Declares the operators whose absence stops the import of a torchvision without compiled code.

    open_clip and transformers import torchvision where it is installed, and use neither operator.
    """
    torch = importlib.import_module("torch")
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        _declared.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            _declared[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_declared: list[Any] = []  # operators are declared for as long as their Library is referenced


def _openai(library: ModuleType, foreign: Foreign) -> Any:
    """build_model fills a half-precision model; filled again after .float(), it loses nothing."""
    tensors = _tensors(foreign.state)
    model = library.build_model(dict(tensors)).float()
    model.load_state_dict({key: tensors[key] for key in tensors.keys() & model.state_dict().keys()})
    return model


def _open_clip(library: ModuleType, foreign: Foreign) -> Any:
    path, state, settings = foreign.path, foreign.state, foreign.settings
    if path is not None and (path / "open_clip_config.json").is_file():
        return library.create_model(f"local-dir:{path}")
    model_cfg = settings.get("model_cfg", settings)  # a file of open_clip's model_configs has it bare
    given = {key: value for key, value in model_cfg.items() if key != "custom_text"}
    custom = model_cfg.get("custom_text") or any(key.startswith("text.") for key in state)
    vision = given["vision_cfg"] | {"timm_model_pretrained": False}  # which would download
    model = (library.CustomTextCLIP if custom else library.CLIP)(**given | {"vision_cfg": vision})
    model.load_state_dict(_tensors(state))
    return model


def _huggingface(library: ModuleType, foreign: Foreign) -> Any:
    path, state, settings = foreign.path, foreign.state, foreign.settings
    torch = importlib.import_module("torch")
    kinds = {"clip": (library.CLIPModel, library.CLIPConfig), "siglip": (library.SiglipModel, library.SiglipConfig)}
    model_class, config_class = kinds[settings["model_type"]]
    scalar = () if settings["model_type"] == "clip" else (1,)
    odd = [key for key in _SCALARS if key in state and state[key].shape != scalar]
    if path is not None and any(path.glob("*.safetensors")) and not odd:
        with _no_progress_bar(library.utils.logging):
            model, info = model_class.from_pretrained(
                path, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        wrong = {what: sorted(map(str, keys)) for what, keys in info.items() if keys and what != "error_msgs"}
    else:
        model = model_class(config_class.from_dict(copy.deepcopy(settings)))
        given, own = _tensors(state), model.state_dict()
        given |= {key: given[key].reshape(own[key].shape) for key in odd if key in own and given[key].numel() == 1}
        loaded = model.load_state_dict(given, strict=False)
        wrong = {"missing_keys": loaded.missing_keys, "unexpected_keys": loaded.unexpected_keys}
    wrong = {what: [key for key in keys if not key.endswith("position_ids")] for what, keys in wrong.items()}
    if any(wrong.values()):
        raise ValueError(f"from_pretrained reports {wrong}")
    return model


_SCALARS = ("logit_scale", "logit_bias")  # [] in CLIPModel, [1] in SiglipModel, either in files of others


@contextlib.contextmanager
def _no_progress_bar(logging_of_transformers: ModuleType) -> Iterator[None]:
    shown = logging_of_transformers.is_progress_bar_enabled()
    logging_of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging_of_transformers.enable_progress_bar()


def _tensors(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """As torch tensors; floats in f32."""
    torch = importlib.import_module("torch")
    arrays = {key: np.array(array) for key, array in state.items()}
    return {key: torch.from_numpy(a if a.dtype.kind in "iub" else a.astype(np.float32)) for key, a in arrays.items()}


_MODELS: dict[str, Callable[[ModuleType, Foreign], Any]] = {
    "openai": _openai,
    "open_clip": _open_clip,
    "huggingface": _huggingface,
}
