"""Rows of logits against the whole batch, and what losses make of them: cross-entropy, soft targets, divergence."""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import Axes, gather, offset


def logits_of(queries: jax.Array, keys: jax.Array, scale: jax.Array, *, axes: Axes = ()) -> jax.Array:
    """scale q k' of this device's queries f32[n, E] and all devices' keys f32[N@axes, E]: f32[n, N]. In f32 always."""
    keys = gather(keys, axes)
    return scale * jnp.matmul(queries, keys.T, precision="highest", preferred_element_type=jnp.float32)


def own_columns(rows: int, axes: Axes) -> jax.Array:
    """The column of each row's own pair: i32[n]."""
    return offset(rows, axes) + jnp.arange(rows, dtype=jnp.int32)


def cross_entropy(logits: jax.Array, columns: jax.Array) -> jax.Array:
    """-log softmax(logits)[column] of each row: f32[n] for f32[n, N] and i32[n]."""
    chosen = jnp.take_along_axis(logits, columns[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - chosen


def soft_cross_entropy(target: jax.Array, logits: jax.Array) -> jax.Array:
    """-sum_j target_j log softmax(logits)_j of each row: f32[n] for f32[n, N] x2; rows of target sum to 1."""
    return -(target * jax.nn.log_softmax(logits, axis=1)).sum(axis=1)


def divergence(target_logits: jax.Array, logits: jax.Array) -> jax.Array:
    """KL(softmax(target) // softmax(logits)) of each row: f32[n] for f32[n, N] x2."""
    log_target = jax.nn.log_softmax(target_logits, axis=1)
    return (jnp.exp(log_target) * (log_target - jax.nn.log_softmax(logits, axis=1))).sum(axis=1)
