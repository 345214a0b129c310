"""A run that trained under masks, opened as the student they chose."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from clip_jax import sharding, tree
from clip_jax.checkpoint import Checkpoints
from clip_jax.interop.recognize import Opened
from clip_jax.masking import MASKS
from clip_jax.models.clip import CLIPConfig, abstract_params
from clip_jax.run_folder import CHECKPOINTS
from clip_jax.runs import Weights, read_config
from clip_jax.sharding import MeshConfig
from clip_jax.shrink import shrunk, sizes_of

TOWERS = {"image": "visual", "text": "text"}  # as people call them -> as parameters do


def open_masked_run(
    folder: Path, wanted: Mapping[tuple[str, str], int], *, weights: Weights = "auto"
) -> tuple[CLIPConfig, Opened]:
    """The run's own model, and the student cut out of its best checkpoint, else its newest.

    wanted: (tower, "width" or "hidden") -> size, where it is not to be what the masks keep. Raises FileNotFoundError
    without a checkpoint, ValueError for a run without masks, and for sizes that cannot be.
    """
    config = read_config(folder)
    model = config.model
    if not (folder / CHECKPOINTS).is_dir():
        raise FileNotFoundError(f"{folder} has no checkpoint yet; train it first")
    checkpoints = Checkpoints(folder / CHECKPOINTS, config.checkpoint, read_only=True)
    try:
        step = checkpoints.best()
        if step is None:
            raise FileNotFoundError(f"{folder} has no checkpoint yet; train it first")
        averaged = config.optim.ema_decay > 0
        if weights == "ema" and not averaged:
            raise ValueError(f"{folder} keeps no average (optim.ema_decay is 0); use raw weights")
        ema = averaged and weights != "raw"
        abstract = _stored(folder / CHECKPOINTS / str(step) / ("ema" if ema else "params"))
        if MASKS not in abstract:
            raise ValueError(f"{folder} was trained without masks; set config.masks, or see config.inherit")
        params = checkpoints.restore_params(abstract, step, ema=ema)
    finally:
        checkpoints.close()
    masks, towers = params[MASKS], {name: params[name] for name in abstract_params(model)}
    sizes = sizes_of(masks, model)
    for (tower, what), size in wanted.items():
        if tower not in sizes:
            raise ValueError(f"--{_said(tower)}_{what} {size}: this run masks {', '.join(map(_said, sizes))} only")
        sizes[tower] = dataclasses.replace(sizes[tower], **{what: size})
    student, small = shrunk(towers, masks, model, sizes)
    said = f"a student cut out of {folder.name}, step {step:,}, {'averaged' if ema else 'raw'} weights"
    return model, Opened(config=student, params=small, layout="clip_jax", state={}, settings={}, path=folder, said=said)


def _stored(item: Path) -> dict[str, Any]:
    """Shapes of all that was saved, to be copied to all devices."""
    at = sharding.replicated(sharding.make_mesh(MeshConfig()))
    checkpointer = ocp.StandardCheckpointer()
    try:
        found: Any = checkpointer.metadata(item.absolute()).item_metadata
    finally:
        checkpointer.close()
    leaves = tree.leaves_by_path(getattr(found, "tree", found))
    return tree.nested(
        {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at) for path, leaf in leaves.items()}
    )


def _said(tower: str) -> str:
    return next(said for said, name in TOWERS.items() if name == tower)
