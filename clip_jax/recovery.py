"""Spikes of the loss or the gradient's norm: found inside the step by running medians, then left out, or gone back behind.

The rule is Huber's: a value is an outlier by its distance from the median in units of the median absolute deviation. That
both are judged, and such updates left out, is as in OLMo-core's SkipStepOptimizer.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

WINDOW = 64  # good steps that a new one is held against; half of them must be there
JUDGED = ("loss", "grad_norm")  # metrics, in the order of the rows of `recent`
_NORMAL = 1.4826  # standard deviations of a normal distribution in one median absolute deviation
_LEAST = 0.01  # of the median: a spread below it is taken for this, since very even values are no reason to be strict


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """What is done when loss or gradient norm lie more than `deviations` robust standard deviations above the median of the
    last steps.

    spike: "ignore"; "skip" leaves the update out and counts it as steps that are not finite are; "rewind" goes back to the
    newest checkpoint and on with the batches after the spike, where the loss has one or TrainConfig.max_skipped steps in a
    row were left out. A gradient's alone, before its update has done harm, is left out by either. rewinds: how many a run
    may need; one more ends it.
    """

    spike: Literal["ignore", "skip", "rewind"] = "ignore"
    deviations: float = 10.0
    rewinds: int = 3


def check_recovery(config: RecoveryConfig) -> None:
    """Raises ValueError for numbers that cannot be."""
    if config.deviations <= 0 or config.rewinds < 1:
        raise ValueError(f"recovery {config}: deviations must be above 0, rewinds at least 1")


def new_recent(config: RecoveryConfig) -> jax.Array | None:
    """Nothing seen yet, NaN f32[len(JUDGED), WINDOW]; None where nothing need be remembered."""
    return None if config.spike == "ignore" else jnp.full((len(JUDGED), WINDOW), jnp.nan, jnp.float32)


def spikes(config: RecoveryConfig, recent: jax.Array | None, values: jax.Array) -> jax.Array:
    """bool[len(JUDGED)], for the f32[len(JUDGED)] values of a step after those of `recent` f32[len(JUDGED), WINDOW], which are
    NaN where there is none yet; None: never."""
    if recent is None:
        return jnp.zeros(len(JUDGED), jnp.bool_)
    middle = jnp.nanmedian(recent, axis=1)
    spread = _NORMAL * jnp.nanmedian(jnp.abs(recent - middle[:, None]), axis=1)
    known = jnp.isfinite(recent).sum(axis=1) >= WINDOW // 2
    return known & (values > middle + config.deviations * jnp.maximum(spread, _LEAST * jnp.abs(middle)))


def remember(recent: jax.Array | None, values: jax.Array, number: jax.Array, counts: jax.Array) -> jax.Array | None:
    """`recent` with the f32[len(JUDGED)] values of the good step `number`, i32[], in place of the oldest; as it was unless
    counts, bool[]."""
    if recent is None:
        return None
    return jnp.where(counts, recent.at[:, number % WINDOW].set(values), recent)
