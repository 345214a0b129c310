"""Run folders as models: whose they are, and the weights of a checkpoint, placed on the devices there are."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from clip_jax import sharding, tree
from clip_jax.checkpoint import Checkpoints
from clip_jax.data.contents import Part, difference
from clip_jax.durable import write_durably
from clip_jax.experiment import TrainConfig
from clip_jax.masking import MASKS, init_masking
from clip_jax.models.clip import abstract_params
from clip_jax.plain import from_json, to_dict
from clip_jax.run_folder import CHECKPOINTS, CONFIG, DATA, TEACHERS, TOKENIZER, has_checkpoints
from clip_jax.sharding import MeshConfig
from clip_jax.writers import write_json

_log = logging.getLogger(__name__)

Weights = Literal["auto", "ema", "raw"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedRun:
    """A run's config, the weights at `step`, and where they lie. weights: "ema" or "raw".

    params: the towers', as in clip_jax.models; beside them `masks`, where these were asked for.
    """

    config: TrainConfig
    params: Any
    mesh: Mesh
    step: int
    weights: str


def read_config(folder: Path) -> TrainConfig:
    """The experiment of a run folder. Raises FileNotFoundError for a folder that is no run's."""
    file = folder / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no {CONFIG}")
    config = from_json(TrainConfig, file.read_text(), str(file))
    own = folder / TOKENIZER
    return _with_tokenizer(config, own) if config.model.text_cfg.tokenizer and own.is_file() else config


def _with_tokenizer(config: TrainConfig, file: Path) -> TrainConfig:
    text = dataclasses.replace(config.model.text_cfg, tokenizer=str(file))
    return dataclasses.replace(config, model=dataclasses.replace(config.model, text_cfg=text))


def check_same_run(folder: Path, config: TrainConfig) -> None:
    """A run that goes on may differ from how it began, with a notice; but not in its model's parameters.

    Raises ValueError where the folder's checkpoints are of another model.
    """
    if not (folder / CONFIG).is_file() or not has_checkpoints(folder):
        return
    began = read_config(folder)
    if tree.misfits(abstract_params(began.model), abstract_params(config.model)):
        raise ValueError(f"{folder} holds a run of another model; choose another workdir, or use config.init_from")
    old, new = _dotted(to_dict(began)), _dotted(to_dict(config))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and key not in ("origin", "model.text_cfg.tokenizer"):
            _log.warning("this run began with %s = %s; it goes on with %s", key, old.get(key), new.get(key))


def check_same_teachers(folder: Path, identities: Mapping[str, Mapping[str, str]]) -> None:
    """identities: by the teacher's name, hashes of its weights and, of a store, its manifest. Raises ValueError where a run
    that has checkpoints began with others under that name."""
    if not (folder / TEACHERS).is_file() or not has_checkpoints(folder):
        return
    began = json.loads((folder / TEACHERS).read_text())
    for name, found in identities.items():
        then = began.get(name, {})
        if any(then.get(part, value) != value for part, value in found.items()):
            old, new = (", ".join(f"{part} {each[part][:12]}" for part in each) for each in (then, found))
            raise ValueError(
                f"{folder} began with another teacher {name!r}: {old}; now it is {new}. Where only the manifest differs, the "
                "same model was embedded again with other settings or samples. Give the teacher it began with, or another "
                "workdir"
            )


def check_same_data(folder: Path, config: TrainConfig, parts: Sequence[Part]) -> None:
    """parts: clip_jax.data.contents of the training samples. Raises ValueError where they are not the same on all processes,
    and where a run that has checkpoints began with others, unless its config names another source now, which is noticed."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=4).digest()
    found = multihost_utils.process_allgather(np.frombuffer(digest, np.uint32), tiled=True)
    if others := np.flatnonzero(found != found[0]).tolist():
        raise ValueError(
            f"processes {others} of {len(found)} find other training samples than process 0; give all the same data"
        )
    if not (folder / DATA).is_file() or not has_checkpoints(folder):
        return
    changed = difference([(name, digest) for name, digest in json.loads((folder / DATA).read_text())], parts)
    if not changed:
        return
    if read_config(folder).source != config.source:
        _log.warning("the training samples are not those that this run began with: %s", changed)
        return
    raise ValueError(
        f"the training samples are not those that {folder} began with: {changed}. Put them back as they were; or train on in "
        f"another workdir, with config.init_from={folder}"
    )


def write_config(
    folder: Path,
    config: TrainConfig,
    teachers: Mapping[str, Mapping[str, str]] | None = None,
    data: Sequence[Part] | None = None,
) -> None:
    """Writes config.json, on process 0, once all processes have read what was there before; a tokenizer file is copied
    beside it, so that the folder can be moved. teachers: as in check_same_teachers, for teachers.json. data: as in
    check_same_data, for data.json."""
    multihost_utils.sync_global_devices("config.json was read")
    if jax.process_index() == 0:
        tokenizer = config.model.text_cfg.tokenizer
        if tokenizer and Path(tokenizer).resolve() != (folder / TOKENIZER).resolve():
            write_durably(folder / TOKENIZER, [Path(tokenizer).read_bytes()])
        write_json(folder / CONFIG, to_dict(config))
        if teachers:
            write_json(folder / TEACHERS, {name: dict(parts) for name, parts in teachers.items()})
        if data:
            write_json(folder / DATA, data)


def _dotted(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def load_run(folder: Path, *, weights: Weights = "auto", step: int | None = None, masks: bool = False) -> LoadedRun:
    """The weights of a run's best checkpoint (config.checkpoint.best), else its newest, or of the one at `step`.

    weights: "auto" takes the average where the run keeps one. masks: those of a run that learned them, too. All are copied
    to all devices. Raises FileNotFoundError without a checkpoint, ValueError for a step, an average or masks that are not
    there.
    """
    config = read_config(folder)
    if masks and not config.masks.on:
        raise ValueError(
            f"{folder} was trained without masks; train with config.masks, as configs/distill_tinyclip_masks.py does, or let "
            "config.inherit cut a student out of it"
        )
    if config.masks.on and not masks:
        _log.warning("%s was trained under masks, and here is without; clip-jax shrink cuts its student out", folder)
    if not (folder / CHECKPOINTS).is_dir():
        raise FileNotFoundError(f"{folder} has no checkpoint yet; train it first")
    mesh = sharding.make_mesh(MeshConfig())
    checkpoints = Checkpoints(folder / CHECKPOINTS, config.checkpoint, read_only=True)
    try:
        steps = checkpoints.steps()
        chosen = checkpoints.best() if step is None else step
        if chosen is None:
            raise FileNotFoundError(f"{folder} has no checkpoint yet; train it first")
        if chosen not in steps:
            raise ValueError(f"{folder} has no checkpoint at step {chosen}; there are {steps}")
        has_ema = config.optim.ema_decay > 0
        if weights == "ema" and not has_ema:
            raise ValueError(f"{folder} keeps no average (optim.ema_decay is 0); use raw weights")
        ema = has_ema and weights != "raw"
        params = checkpoints.restore_params(_abstract(config, mesh, masks=masks), chosen, ema=ema)
    finally:
        checkpoints.close()
    return LoadedRun(config=config, params=params, mesh=mesh, step=chosen, weights="ema" if ema else "raw")


def _abstract(config: TrainConfig, mesh: Mesh, *, masks: bool) -> dict[str, Any]:
    shapes = abstract_params(config.model)
    if masks:
        shapes |= {MASKS: jax.eval_shape(lambda: init_masking(config.masks, config.model)[MASKS])}
    at = sharding.replicated(mesh)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes)
