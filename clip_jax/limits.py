"""What ends a run, or sends it back: the rules that every step's metrics are held against."""

import math
from collections.abc import Callable, Mapping

from clip_jax.experiment import TrainConfig
from clip_jax.recovery import JUDGED

_FEW_BAD = 10  # so many replaced samples never stop a run, however small their share allowed


class GoBack(Exception):
    """The steps up to `step`, back to the newest checkpoint, are to be undone and their batches left out."""

    def __init__(self, step: int, reason: str):
        super().__init__(step, reason)
        self.step, self.reason = step, reason


def check_step(
    config: TrainConfig, step: int, figures: Mapping[str, float], worst_shards: Callable[[], str]
) -> str | None:
    """A line about a step that was left out, else None. figures: the metrics of step `step`, equal on all processes.

    Raises GoBack where config.recovery says so; RuntimeError where too many steps in a row were left out, or too many
    samples could not be read.
    """
    spiked = [name for name in JUDGED if figures.get(f"{name}_spike")]
    rewinds = config.recovery.spike == "rewind"
    if "loss" in spiked and rewinds:
        raise GoBack(step, f"a loss of {figures['loss']:.4g}, far above its median")
    if figures["skipped_in_row"] >= config.max_skipped:
        many = f"{figures['skipped_in_row']:.0f} steps in a row up to step {step}"
        what = "a loss or gradient that is not finite" + (" or spikes" if config.recovery.spike != "ignore" else "")
        if rewinds:
            raise GoBack(step, f"{what} in {many}")
        raise RuntimeError(
            f"{many} had {what}; lower optim.lr {config.optim.lr}, set optim.clip_norm, or look at the data"
        )
    drawn = step * config.batch_size
    if figures["replaced"] > max(_FEW_BAD, config.read.max_bad_share * drawn):
        raise RuntimeError(
            f"{figures['replaced']:.0f} of {drawn} samples could not be read, more than read.max_bad_share "
            f"{config.read.max_bad_share:.1%}; worst: {worst_shards()}. bad_samples.jsonl names each"
        )
    if not math.isfinite(figures["loss"]) or figures["skipped_in_row"]:
        what = ", ".join(f"{name} {figures[name]:.4g} is far above its median" for name in spiked)
        what = what or "loss or gradient not finite"
        return f"step {step}: {what}; step skipped ({figures['skipped']:.0f} so far)"
    return None
