"""How a loss sees the whole batch from inside `jax.shard_map`: the only home of collectives."""

import jax
import jax.numpy as jnp

# Names of the mesh axes that cut the batch, outermost first, inside `jax.shard_map`; () on one device: the batch is whole.
Axes = tuple[str, ...]


def gather(x: jax.Array, axes: Axes) -> jax.Array:
    """[n, ...] on each device -> [N, ...], all devices' rows in order. Its gradient sums over the devices."""
    return jax.lax.all_gather(x, axes, tiled=True) if axes else x


def offset(rows: int, axes: Axes) -> jax.Array:
    """Index in the global batch of this device's first row: i32[]."""
    return rows * jax.lax.axis_index(axes) if axes else jnp.int32(0)


def mean(per_row: jax.Array, axes: Axes) -> jax.Array:
    """f32[n] on each device -> f32[], the mean over all devices' rows."""
    return jax.lax.pmean(per_row.mean(), axes) if axes else per_row.mean()
