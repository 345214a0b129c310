"""Rows of logits against the whole batch, and which of their columns is a row's own."""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import Axes, gather, offset


def logits_of(queries: jax.Array, keys: jax.Array, scale: jax.Array, *, axes: Axes = ()) -> jax.Array:
    """scale q k' of this device's queries f32[n, E] and all devices' keys f32[N@axes, E]: f32[n, N]."""
    return scale * products(queries, gather(keys, axes))


def products(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """q k' of [n, E] and [c, E], in f32 from any type: f32[n, c]."""
    return jnp.matmul(queries, keys.T, precision="highest", preferred_element_type=jnp.float32)


def own_columns(rows: int, axes: Axes) -> jax.Array:
    """The column of each row's own pair: i32[n]."""
    return offset(rows, axes) + jnp.arange(rows, dtype=jnp.int32)


def is_own(logits: jax.Array, axes: Axes) -> jax.Array:
    """Where each row's own pair is: bool[n, N] for f32[n, N]."""
    return jnp.arange(logits.shape[1], dtype=jnp.int32)[None] == own_columns(logits.shape[0], axes)[:, None]


def cross_entropy(logits: jax.Array, columns: jax.Array) -> jax.Array:
    """-log softmax(logits)[column] of each row: f32[n] for f32[n, N] and i32[n]."""
    chosen = jnp.take_along_axis(logits, columns[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - chosen
