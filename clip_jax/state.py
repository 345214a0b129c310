"""The state of a run: all that a checkpoint must hold for training to go on as if nothing had happened."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """step: updates done, skipped ones included, i32[]. params: nested dict of f32, batch norms' running statistics among
    them. opt_state: optax's.

    ema: the average of params, or None. skipped: non-finite steps left out so far, i32[]; skipped_in_row: since the last
    good one, i32[]. replaced: samples that could not be read and were replaced by another so far, i32[]. recent: loss and
    gradient norm of the last good steps, f32[2, W], where spikes are looked for (see recovery.py), else None.
    """

    step: jax.Array
    params: dict[str, Any]
    opt_state: optax.OptState
    ema: dict[str, Any] | None
    skipped: jax.Array
    skipped_in_row: jax.Array
    replaced: jax.Array
    recent: jax.Array | None = None


def new_state(params: dict[str, Any], tx: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """The state before the first step; traceable."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
        replaced=jnp.zeros((), jnp.int32),
    )
