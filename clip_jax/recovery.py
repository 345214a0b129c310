"""Loss spikes: found inside the step against a running median, then left out, or gone back behind.

The rule is Huber's: a value is an outlier by its distance from the median in units of the median absolute deviation.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from clip_jax.state import TrainState

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


def is_spike(config: RecoveryConfig, recent: jax.Array, loss: jax.Array) -> jax.Array:
    """bool[] for the f32[] loss of a step after those of `recent` f32[WINDOW], NaN where there is none yet."""
    middle = jnp.nanmedian(recent)
    spread = jnp.maximum(_NORMAL * jnp.nanmedian(jnp.abs(recent - middle)), _LEAST * jnp.abs(middle))
    known = jnp.isfinite(recent).sum() >= WINDOW // 2
    return known & (loss > middle + config.deviations * spread)


def guarded(step: Any, config: RecoveryConfig, shardings: TrainState) -> Any:
    """A compiled training step (see step.py) that leaves spikes out as it does what is not finite, with the metric `spike`,
    0 or 1; `step` itself where they are ignored."""
    if config.spike == "ignore":
        return step

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None))
    def guarded_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        after, metrics = step(dataclasses.replace(state, recent=None), batch)
        assert state.recent is not None
        applied = after.skipped == state.skipped
        spike = applied & is_spike(config, state.recent, metrics["loss"])
        place = (jnp.arange(WINDOW) == (state.step - state.skipped) % WINDOW) & applied & ~spike

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(functools.partial(jnp.where, spike), old, new)

        after = dataclasses.replace(
            after,
            params=keep(after.params, state.params),
            opt_state=keep(after.opt_state, state.opt_state),
            ema=keep(after.ema, state.ema),
            skipped=after.skipped + spike,
            skipped_in_row=after.skipped_in_row + spike,
            recent=jnp.where(place, metrics["loss"], state.recent),
        )
        counters = {name: getattr(after, name).astype(jnp.float32) for name in ("skipped", "skipped_in_row")}
        return after, metrics | counters | {"spike": spike.astype(jnp.float32)}

    return guarded_step
