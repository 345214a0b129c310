"""Loss spikes: found inside the step against a running median, then left out, or gone back behind.

The rule is Huber's: a value is an outlier by its distance from the median in units of the median absolute deviation.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

WINDOW = 64  # losses of good steps that a new one is held against; half of them must be there
_NORMAL = 1.4826  # standard deviations of a normal distribution in one median absolute deviation
_LEAST = 0.01  # of the median: a spread below it is taken for this, since very even losses are no reason to be strict


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """What is done when the loss lies more than `deviations` robust standard deviations above the median of the last steps.

    spike: "ignore"; "skip" leaves the update out and counts it as steps that are not finite are; "rewind" goes back to the
    newest checkpoint and on with the batches after the spike, also where TrainConfig.max_skipped steps in a row were not
    finite. rewinds: how many a run may need; one more ends it.
    """

    spike: Literal["ignore", "skip", "rewind"] = "ignore"
    deviations: float = 10.0
    rewinds: int = 3


def check_recovery(config: RecoveryConfig) -> None:
    """Raises ValueError for numbers that cannot be."""
    if config.deviations <= 0 or config.rewinds < 1:
        raise ValueError(f"recovery {config}: deviations must be above 0, rewinds at least 1")


def new_recent(config: RecoveryConfig) -> jax.Array | None:
    """No losses seen yet, NaN f32[WINDOW]; None where none need be remembered."""
    return None if config.spike == "ignore" else jnp.full(WINDOW, jnp.nan, jnp.float32)


def is_spike(config: RecoveryConfig, recent: jax.Array | None, loss: jax.Array) -> jax.Array:
    """bool[] for the f32[] loss of a step after those of `recent` f32[WINDOW], NaN where there is none yet; None: never."""
    if recent is None:
        return jnp.zeros((), jnp.bool_)
    middle = jnp.nanmedian(recent)
    spread = jnp.maximum(_NORMAL * jnp.nanmedian(jnp.abs(recent - middle)), _LEAST * jnp.abs(middle))
    known = jnp.isfinite(recent).sum() >= WINDOW // 2
    return known & (loss > middle + config.deviations * spread)


def remember(recent: jax.Array | None, loss: jax.Array, number: jax.Array, counts: jax.Array) -> jax.Array | None:
    """`recent` with the f32[] loss of the good step `number`, i32[], in place of the oldest; as it was unless counts, bool[]."""
    if recent is None:
        return None
    return jnp.where((jnp.arange(WINDOW) == number % WINDOW) & counts, loss, recent)
