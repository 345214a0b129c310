"""Weights of any project, recognised by their content and read as our parameters."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from clip_jax.interop import folder
from clip_jax.interop.files import hub, tensors
from clip_jax.interop.layouts import big_vision, huggingface, huggingface_files, open_clip, openai
from clip_jax.interop.packing import restored
from clip_jax.interop.rules import Rule, State, from_theirs
from clip_jax.models.clip import CLIPConfig, abstract_params
from clip_jax.models.presets import preset
from clip_jax.run_folder import CHECKPOINTS, CONFIG
from clip_jax.runs import Weights, load_run, read_config

Layout = Literal["clip_jax", "openai", "open_clip", "huggingface", "big_vision"]
_OPEN_CLIP_CONFIG = "open_clip_config.json"
_SUFFIXES = (".safetensors", ".pt", ".bin", ".pth", ".npz")
_LIKELY = (  # (settings, the weights that belong to them), the best first
    (folder.SETTINGS, folder.WEIGHTS),
    (folder.SETTINGS, folder.OPENAI_WEIGHTS),
    (_OPEN_CLIP_CONFIG, "open_clip_model.safetensors"),
    (CONFIG, "model.safetensors"),
    (CONFIG, "model.safetensors.index.json"),
    (_OPEN_CLIP_CONFIG, "open_clip_pytorch_model.bin"),
    (CONFIG, "pytorch_model.bin"),
)
_WHERE_LIBRARIES_LOOK = ("model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A model, read. config: with text_cfg.tokenizer as a path that can be opened. params: nested dict of f32 arrays.

    layout, state, settings: as it lay there: their keys and arrays and their own configuration; state is empty for a run.
    path: the file that was read, or the folder where its files have the names by which their library looks for them.
    said: what it was recognised as, for people. run, step, weights: of a run folder. origin: what a clip_jax.json tells.
    """

    config: CLIPConfig
    params: Any
    layout: Layout
    state: State
    settings: dict[str, Any]
    path: Path
    said: str
    run: Path | None = None
    step: int | None = None
    weights: str = ""
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)


def open_weights(
    source: str | Path, *, weights: Weights = "auto", model: str = "", tokenizer: str | Path = ""
) -> Opened:
    """The model in a run folder, a folder or file of another project, or `hf-hub:org/repo`.

    weights: of a run, its average ("auto", "ema") or "raw". model: an open_clip name, for a file that does not say its
    activation or its heads. tokenizer: a tokenizer.json, for weights that come without theirs. Raises FileNotFoundError, or
    ValueError that says what was found and what is needed, and for an option that the source has no use for.
    """
    path = hub.fetch(source) if isinstance(source, str) and source.startswith("hf-hub:") else Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; give a run folder, a file or folder of weights, or hf-hub:org/repo"
        )
    if tokenizer and not Path(tokenizer).is_file():
        raise FileNotFoundError(f"tokenizer {tokenizer} is not there; give a tokenizer.json")
    named = preset(model) if model else None
    if (path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir():
        found = _run(path, weights)
    else:
        found = _file(_weights_in(path) if path.is_dir() else path, named, tokenizer)
        kept = found.origin.get("weights", found.weights)
        if weights != "auto" and weights != kept:
            what = f"holds {kept} weights" if kept else f"is no run folder but {found.said}"
            raise ValueError(f"weights {weights!r} is asked of {path}, which {what}; leave the option out")
    if named is not None and found.layout != "open_clip":  # the one layout whose files may need it
        raise ValueError(
            f"model {model!r} is given for {path}, which says itself what it is: {found.said}; leave it out"
        )
    return _with_tokenizer(found, tokenizer)


def _weights_in(path: Path) -> Path:
    """The weights in a folder: the first name that its settings make likely, else the only file that looks like weights."""
    for settings, name in _LIKELY:
        if (path / settings).is_file() and (path / name).is_file():
            return path / name
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if len(files) == 1:
        return files[0]
    listed = ", ".join(file.name for file in files) or ", ".join(sorted(file.name for file in path.iterdir())[:8])
    what = f"{len(files)} files of weights" if files else "no weights and no configuration that clip_jax knows"
    raise ValueError(f"{path} holds {what} ({listed or 'nothing'}); give the one file that is meant")


def _file(path: Path, named: CLIPConfig | None, tokenizer: str | Path) -> Opened:
    """Recognised by the keys of its arrays, and read with the settings beside it."""
    read, beside = tensors.read(path), path.parent
    keys = read.state.keys()
    if any(re.match(r"(params/)?img/", key) for key in keys):
        return _big_vision(path, read)
    if any(key.startswith(("text_model.", "vision_model.")) for key in keys):
        _need(beside / CONFIG, path, "Hugging Face's")
        return _huggingface(path, read.state, tokenizer)
    if any(key.startswith("visual/") for key in keys):
        _need(beside / folder.SETTINGS, path, "clip_jax's")
        return _ours(path, read.state)
    state = open_clip.unwrap(read)
    if not any(key.endswith(("token_embedding.weight", "conv1.weight")) or ".trunk." in key for key in state):
        raise ValueError(
            f"{path} holds no CLIP that clip_jax knows; its {len(keys)} arrays are called {sorted(keys)[:3]}. It reads OpenAI's, "
            "open_clip's, Hugging Face's and big_vision's layouts"
        )
    if named is not None:
        return _open_clip(path, read, open_clip.to_json(named))
    if (beside / folder.SETTINGS).is_file():
        config, layout, origin = folder.read_settings(beside)
        if layout == "openai":
            return _openai(path, read.state, config, origin)
    if (beside / _OPEN_CLIP_CONFIG).is_file():
        return _open_clip(path, read, _json(beside / _OPEN_CLIP_CONFIG))
    if openai.says_so(read.state):
        return _openai(path, read.state, openai.config_of(read.state), {})
    raise ValueError(
        f"{path} does not say which activation and how many heads its model has; name it, as open_clip does: --model ViT-B-32, "
        f"or --model ViT-B-32-quickgelu for weights trained with OpenAI's activation; or put its {_OPEN_CLIP_CONFIG} beside it"
    )


def _need(settings: Path, path: Path, whose: str) -> None:
    if not settings.is_file():
        raise ValueError(f"{path} holds weights in {whose} layout, but no {settings.name} lies beside it; it is needed")


def _ours(path: Path, state: State) -> Opened:
    config, _, origin = folder.read_settings(path.parent)
    said = "a clip_jax model" + (f", from {origin['source']}" if "source" in origin else "")
    found = _read("clip_jax", said, path, restored(state), config, {}, folder.rules(config), "")
    return dataclasses.replace(found, origin=origin)


def _run(path: Path, weights: Weights) -> Opened:
    run = load_run(path, weights=weights)
    return Opened(
        config=run.config.model,
        params=run.params,
        layout="clip_jax",
        state={},
        settings={},
        path=path,
        said=f"a clip_jax run, step {run.step:,}, {'averaged' if run.weights == 'ema' else 'raw'} weights",
        run=path,
        step=run.step,
        weights=run.weights,
    )


def _openai(path: Path, state: State, config: CLIPConfig, origin: dict[str, Any]) -> Opened:
    found = _read("openai", "OpenAI's layout", path, state, config, {}, openai.rules(config), openai.IGNORE)
    return dataclasses.replace(found, origin=origin)


def _open_clip(path: Path, read: tensors.Tensors, settings: dict[str, Any]) -> Opened:
    with _named(path):
        config, state = open_clip.from_json(settings), open_clip.unwrap(read)
    rules = open_clip.rules(config, custom_text=open_clip.has_custom_text(state))
    return _read("open_clip", "open_clip's layout", path, state, config, settings, rules, open_clip.IGNORE)


def _huggingface(path: Path, state: State, tokenizer: str | Path) -> Opened:
    beside = path.parent
    settings = _json(beside / CONFIG)
    with _named(path):
        config = huggingface.from_json(settings, huggingface_files.preprocessor_of(beside))
        config = dataclasses.replace(config, text_cfg=huggingface_files.tokenizer_of(beside, config, tokenizer))
    rules = huggingface.rules(config)
    return _read("huggingface", "Hugging Face's layout", path, state, config, settings, rules, huggingface.IGNORE)


def _big_vision(path: Path, read: tensors.Tensors) -> Opened:
    state = big_vision.unwrap(read.state)
    config = big_vision.config_of(state)
    rules = big_vision.rules(config, stacked=big_vision.is_stacked(state))
    return _read("big_vision", "big_vision's layout", path, state, config, {}, rules, big_vision.IGNORE)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Says of which weights an error in their settings is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read(
    layout: Layout,
    said: str,
    path: Path,
    state: State,
    config: CLIPConfig,
    settings: dict[str, Any],
    rules: Sequence[Rule],
    ignore: str,
) -> Opened:
    try:
        params = from_theirs(rules, state, abstract_params(config), ignore=ignore)
    except ValueError as error:
        raise ValueError(f"{path}, read as {said}: {error}") from error
    home = path.parent if path.name in _WHERE_LIBRARIES_LOOK else path
    return Opened(config=config, params=params, layout=layout, state=state, settings=settings, path=home, said=said)


def _with_tokenizer(found: Opened, given: str | Path) -> Opened:
    text = found.config.text_cfg
    beside = (found.path if found.path.is_dir() else found.path.parent) / folder.TOKENIZER
    text_cfg = found.settings.get("model_cfg", {}).get("text_cfg", {})
    foreign = found.layout == "big_vision" or bool(text_cfg.get("hf_tokenizer_name"))
    if given and found.layout != "huggingface":  # there it has been read with the folder's own settings
        text = dataclasses.replace(text, tokenizer=str(given))
    elif foreign and not text.tokenizer and beside.is_file():
        text = dataclasses.replace(text, tokenizer=str(beside))
    elif foreign and not text.tokenizer:
        raise ValueError(
            f"{found.path} comes without its tokenizer ({text.vocab_size:,} tokens), which is not CLIP's; give its "
            "tokenizer.json with --tokenizer (SigLIP's is in hf-hub:google/siglip-base-patch16-224, SigLIP 2's in "
            "hf-hub:google/siglip2-base-patch16-224)"
        )
    return dataclasses.replace(found, config=dataclasses.replace(found.config, text_cfg=text))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected an object")
    return found


def config_of(source: str | Path, **given: Any) -> CLIPConfig:
    """Only the configuration: of a run without its weights, else as open_weights."""
    path = Path(source)
    if (path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir():
        return read_config(path).model
    return open_weights(source, **given).config
