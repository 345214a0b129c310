"""A run that trained under masks, opened as the student they chose."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from clip_jax.experiment import TrainConfig
from clip_jax.interop.recognize import Opened
from clip_jax.masking import MASKS, without_masks
from clip_jax.runs import Weights, load_run
from clip_jax.shrink import SAID, shrunk, sizes_of


def open_masked_run(
    folder: Path, wanted: Mapping[tuple[str, str], int], *, weights: Weights = "auto"
) -> tuple[TrainConfig, Opened]:
    """The run's experiment, and the student cut out of its best checkpoint, else its newest.

    wanted: ("image" or "text", "width" or "hidden") -> size, where it is not to be what the masks keep. Raises
    FileNotFoundError without a checkpoint, ValueError for a run without masks, and for sizes that cannot be.
    """
    run = load_run(folder, weights=weights, masks=True)
    model, masks = run.config.model, run.params[MASKS]
    sizes = sizes_of(masks, model)
    towers = {SAID[tower]: tower for tower in sizes}
    for (said, what), size in wanted.items():
        if said not in towers:
            raise ValueError(f"--{said}_{what} {size}: this run masks {', '.join(towers)} only; leave the flag out")
        sizes[towers[said]] = dataclasses.replace(sizes[towers[said]], **{what: size})
    config, params = shrunk(without_masks(run.params), masks, model, sizes)
    kind = "averaged" if run.weights == "ema" else "raw"
    about = f"a student cut out of {folder.name}, step {run.step:,}, {kind} weights"
    opened = Opened(config=config, params=params, layout="clip_jax", state={}, settings={}, path=folder, said=about)
    return run.config, opened
