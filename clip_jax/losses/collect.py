"""How a loss sees the global batch from inside `jax.shard_map`: the only home of collectives."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

# Names of the mesh axes that cut the batch, outermost first, inside `jax.shard_map`; () on one device: the batch is whole.
Axes = tuple[str, ...]
Form = Literal["gathered", "chunked", "ring"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """The batch of all devices, and how a loss over N x N logits comes by it; each form has one meaning and value.

    form: "gathered": every device holds all embeddings and its rows' N logits, the fastest while that fits. "chunked":
    all embeddings, and `chunk` columns of logits at a time. "ring": only other devices' embeddings that pass by, again
    `chunk` columns at a time, at least 1; it need not divide their number.
    """

    axes: Axes = ()
    form: Form = "gathered"
    chunk: int = 1024


HERE = GlobalBatch()  # all on one device


def gather(x: jax.Array, axes: Axes) -> jax.Array:
    """[n, ...] on each device -> [N, ...], all devices' rows in order. Its gradient sums over the devices."""
    return jax.lax.all_gather(x, axes, tiled=True) if axes else x


def sum_to_owners(x: jax.Array, axes: Axes) -> jax.Array:
    """[N, ...] on each device -> [n, ...], the devices' sum of the rows that are its own: the transpose of `gather`."""
    return jax.lax.psum_scatter(x, axes, scatter_dimension=0, tiled=True) if axes else x


def pass_on(x: Any, axes: Axes) -> Any:
    """A tree of arrays, each device's to the device before it; the first one's to the last."""
    if not axes:
        return x
    devices = count(axes)
    neighbours = [(device, (device - 1) % devices) for device in range(devices)]
    return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, axes, neighbours), x)


def varying(x: jax.Array, axes: Axes) -> jax.Array:
    """An array that is the same on all devices as one that each device may change; its gradient sums over them."""
    return jax.lax.pcast(x, axes, to="varying") if axes else x


def count(axes: Axes) -> int:
    """Devices that the batch is cut over."""
    return jax.lax.axis_size(axes) if axes else 1


def offset(rows: int, axes: Axes) -> jax.Array:
    """Index in the global batch of this device's first row: i32[]."""
    return rows * jax.lax.axis_index(axes) if axes else jnp.int32(0)


def mean(per_row: jax.Array, axes: Axes) -> jax.Array:
    """f32[n] on each device -> f32[], the mean over all devices' rows."""
    return jax.lax.pmean(per_row.mean(), axes) if axes else per_row.mean()
