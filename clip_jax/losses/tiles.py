"""Rows of the N x N logits in tiles of columns, forward and backward: their memory does not grow with the batch squared.

Two of the three forms of a GlobalBatch. "chunked" gathers the columns' embeddings and walks over them, `chunk` columns at a
time. "ring" gathers nothing: blocks of columns pass from device to device (ppermute), each worked on in chunks. For the
gradient nothing of a tile is kept: its logits are made again, and each row's normaliser turns them into slopes. Dao et al.
2022 (FlashAttention); Cheng et al. 2024 (Inf-CLIP).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clip_jax.losses.collect import GlobalBatch, count, gather, offset, pass_on, sum_to_owners, varying
from clip_jax.losses.logits import products
from clip_jax.losses.reductions import Reduction, Tile


class Sides(NamedTuple):
    """Rows x and columns y, this device's f32[n, E] of each, of logits s x y' + b; scale, bias: f32[]."""

    rows: jax.Array
    columns: jax.Array
    scale: jax.Array
    bias: jax.Array | np.float32


def reduced(reduction: Reduction, sides: Sides, target: Sides | None, batch: GlobalBatch) -> jax.Array:
    """The reduction of each of this device's rows over all devices' columns: f32[n]. No gradient flows to the target."""
    return _reduced(reduction, batch, _alike(sides, batch), None if target is None else _alike(target, batch))


def _logits(sides: Sides) -> jax.Array:
    """s x y' + b: f32[n, c]."""
    return sides.scale * products(sides.rows, sides.columns) + sides.bias


def _alike(sides: Sides, batch: GlobalBatch) -> Sides:
    """All in f32, so that sums over tiles are; scalars, too, as one device's own, whose gradients the devices sum."""
    rows, columns = (one.astype(jnp.float32) for one in (sides.rows, sides.columns))
    scale, bias = (varying(jnp.asarray(one, jnp.float32), batch.axes) for one in (sides.scale, sides.bias))
    return Sides(rows, columns, scale, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _reduced(reduction: Reduction, batch: GlobalBatch, sides: Sides, target: Sides | None) -> jax.Array:
    return _forward(reduction, batch, sides, target)[0]


def _forward(reduction: Reduction, batch: GlobalBatch, sides: Sides, target: Sides | None) -> Any:
    def visit(state: Any, tile: Tile, _: jax.Array) -> tuple[Any, None]:
        return reduction.merge(state, tile), None

    rows = sides.rows.shape[0]
    state = reduction.start(varying(jnp.zeros((rows,), jnp.float32), batch.axes))
    state, _ = _walk(batch, sides, target, visit, state, columns_too=False)
    value, kept = reduction.end(state, rows * count(batch.axes))
    return value, (sides, target, kept)


def _backward(reduction: Reduction, batch: GlobalBatch, residuals: Any, given: jax.Array) -> tuple[Any, None]:
    sides, target, kept = residuals

    def visit(state: Any, tile: Tile, columns: jax.Array) -> tuple[Any, jax.Array]:
        slope = jnp.where(tile.there[None], given[:, None] * reduction.slope(kept, tile), 0.0)
        back = jax.vjp(_logits, sides._replace(columns=columns))[1]
        [made] = back(slope)
        return jax.tree.map(jnp.add, state, (made.rows, made.scale, made.bias)), made.columns

    start = tuple(varying(jnp.zeros(x.shape, x.dtype), batch.axes) for x in (sides.rows, sides.scale, sides.bias))
    (rows, scale, bias), columns = _walk(batch, sides, target, visit, start, columns_too=True)
    return Sides(rows, columns, scale, bias), None


_reduced.defvjp(_forward, _backward)


def _walk(
    batch: GlobalBatch,
    sides: Sides,
    target: Sides | None,
    visit: Callable[[Any, Tile, jax.Array], tuple[Any, Any]],
    state: Any,
    *,
    columns_too: bool,
) -> tuple[Any, Any]:
    """State after visits to all tiles, and where columns_too the visits' f32[c, E] summed to f32[n, E] of own columns.

    visit: (state, tile, the tile's columns f32[c, E]) -> (state, f32[c, E] or None).
    """
    rows = sides.rows.shape[0]
    columns = (sides.columns, None if target is None else target.columns)
    own = offset(rows, batch.axes) + jnp.arange(rows, dtype=jnp.int32)

    def block(state: Any, columns: Any, first: jax.Array) -> tuple[Any, Any]:
        """Of a block of columns, which begins at column `first` of all."""
        there = columns[0].shape[0]
        width = min(batch.chunk, there)
        tiles = -(-there // width)

        def one(state: Any, at: Any) -> tuple[Any, Any]:
            number, (chosen, aimed) = at
            place = number * width + jnp.arange(width, dtype=jnp.int32)
            tile = Tile(
                _logits(sides._replace(columns=chosen)),
                None if target is None else _logits(target._replace(columns=aimed)),
                own=((first + place)[None] == own[:, None]) & (place < there)[None],
                there=place < there,
            )
            return visit(state, tile, chosen)

        def cut(x: jax.Array) -> jax.Array:
            return jnp.pad(x, ((0, tiles * width - there), (0, 0))).reshape(tiles, width, x.shape[1])

        numbered = (jnp.arange(tiles, dtype=jnp.int32), jax.tree.map(cut, columns))
        state, made = jax.lax.scan(one, state, numbered)
        return state, jax.tree.map(lambda x: x.reshape(-1, x.shape[2])[:there], made)

    if batch.form == "chunked":
        gathered = jax.tree.map(lambda x: gather(x, batch.axes), columns)
        state, made = block(state, gathered, jnp.int32(0))
        return state, jax.tree.map(lambda x: sum_to_owners(x, batch.axes), made)

    devices = count(batch.axes)
    sums = varying(jnp.zeros(sides.columns.shape, sides.columns.dtype), batch.axes) if columns_too else None

    def turn(carried: Any, number: jax.Array) -> tuple[Any, None]:
        state, columns, sums = carried
        following = pass_on(columns, batch.axes)  # travels while this block is worked on
        first = (offset(rows, batch.axes) + number * rows) % (devices * rows)
        state, made = block(state, columns, first)
        sums = pass_on(jax.tree.map(jnp.add, sums, made), batch.axes)
        return (state, following, sums), None

    (state, _, sums), _ = jax.lax.scan(turn, (state, columns, sums), jnp.arange(devices, dtype=jnp.int32))
    return state, sums
