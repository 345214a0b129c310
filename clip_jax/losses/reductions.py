"""What losses make of a row of logits, column by column: each a running state that starts empty, merges tiles, and ends.

A tile is a block of columns: logits f32[n, c] of the pairs and, where there is a target, its own f32[n, c]; own: bool[n, c],
where a column is the row's own pair; there: bool[c], false for padding. Maxima run along, and all terms are kept relative to
them, as in Milakov & Gimelshein 2018 (online softmax): nothing overflows, and what nearly cancels does so near zero. `slope` is
the derivative in the logits of the tile, by what `end` kept of the row; none flows to the target.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

_LOW = -1e30  # below all logits, and finite: differences of two are numbers


class Tile(NamedTuple):
    """logits: f32[n, c], s x y' + b. target: f32[n, c], or None. own: bool[n, c]. there: bool[c]."""

    logits: jax.Array
    target: Any
    own: jax.Array
    there: jax.Array


class Reduction(Protocol):
    """A state is a tuple of f32[n]; what `end` keeps for `slope`, too."""

    def start(self, empty: jax.Array) -> Any:
        """The state before any column. empty: f32[n], zeros."""
        ...

    def merge(self, state: Any, tile: Tile) -> Any:
        """The state after these columns, too."""
        ...

    def end(self, state: Any, columns: int) -> tuple[jax.Array, Any]:
        """The rows' values f32[n], and what `slope` wants of them. columns: N."""
        ...

    def slope(self, kept: Any, tile: Tile) -> jax.Array:
        """d value / d logits: f32[n, c]; columns that are not there may have any."""
        ...


@dataclasses.dataclass(frozen=True)
class OwnCrossEntropy:
    """-log softmax(logits)_own."""

    def start(self, empty: jax.Array) -> Any:
        return empty + _LOW, empty, empty

    def merge(self, state: Any, tile: Tile) -> Any:
        top, total, chosen = state
        top, total, *_ = _more(top, total, tile.logits, tile.there[None])
        return top, total, chosen + jnp.where(tile.own, tile.logits, 0.0).sum(axis=1)

    def end(self, state: Any, columns: int) -> tuple[jax.Array, Any]:
        top, total, chosen = state
        return (top - chosen) + jnp.log(total), (top, jnp.log(total))

    def slope(self, kept: Any, tile: Tile) -> jax.Array:
        return _softmax(tile.logits, *kept) - tile.own


@dataclasses.dataclass(frozen=True)
class SoftCrossEntropy:
    """-sum_j p_j log softmax(logits)_j, p the target's softmax. but_own: over all columns but the own; less_entropy: with
    sum_j p_j log p_j, which makes it KL(p // softmax(logits))."""

    but_own: bool = False
    less_entropy: bool = False

    def start(self, empty: jax.Array) -> Any:
        low = empty + _LOW
        return low, empty, low, empty, empty, empty

    def merge(self, state: Any, tile: Tile) -> Any:
        """counted: sum of e^(t - top_t) over the columns that count; cost: the same with each one's
        less_entropy (t - top_t) - (l - top_l)."""
        top_t, total_t, top_l, total_l, counted, cost = state
        here = tile.there[None]
        new_t, total_t, fade, parts = _more(top_t, total_t, tile.target, here)
        new_l, total_l, *_ = _more(top_l, total_l, tile.logits, here)
        moved = (new_l - top_l) - (new_t - top_t if self.less_entropy else 0.0)
        if self.but_own:
            parts = jnp.where(tile.own, 0.0, parts)
        each = -(tile.logits - new_l[:, None])
        if self.less_entropy:
            each += tile.target - new_t[:, None]
        cost = fade * (cost + counted * moved) + (parts * jnp.where(here, each, 0.0)).sum(axis=1)
        return new_t, total_t, new_l, total_l, fade * counted + parts.sum(axis=1), cost

    def end(self, state: Any, columns: int) -> tuple[jax.Array, Any]:
        top_t, total_t, top_l, total_l, counted, cost = state
        share = counted / total_t
        value = cost / total_t + share * jnp.log(total_l)
        if self.less_entropy:
            value -= share * jnp.log(total_t)
        return value, (top_t, jnp.log(total_t), top_l, jnp.log(total_l), share)

    def slope(self, kept: Any, tile: Tile) -> jax.Array:
        top_t, log_t, top_l, log_l, share = kept
        p = _softmax(tile.target, top_t, log_t)
        if self.but_own:
            p = jnp.where(tile.own, 0.0, p)
        return share[:, None] * _softmax(tile.logits, top_l, log_l) - p


@dataclasses.dataclass(frozen=True)
class Sum:
    """sum_j per_pair(own, target, logits), elementwise; without a target, per_pair(own, logits)."""

    per_pair: Callable[..., jax.Array]

    def _each(self, tile: Tile) -> Callable[[jax.Array], jax.Array]:
        given = (tile.own,) if tile.target is None else (tile.own, tile.target)
        return lambda logits: self.per_pair(*given, logits)

    def start(self, empty: jax.Array) -> Any:
        return (empty,)

    def merge(self, state: Any, tile: Tile) -> Any:
        return (state[0] + jnp.where(tile.there[None], self._each(tile)(tile.logits), 0.0).sum(axis=1),)

    def end(self, state: Any, columns: int) -> tuple[jax.Array, Any]:
        return state[0], ()

    def slope(self, kept: Any, tile: Tile) -> jax.Array:
        each, back = jax.vjp(self._each(tile), tile.logits)
        return back(jnp.ones_like(each))[0]


@dataclasses.dataclass(frozen=True)
class LogMeanExpMargin:
    """log(eps + mean_{j != own} exp(m_j - m_own)), m = logits - target; log eps where there is no other column."""

    eps: float

    def start(self, empty: jax.Array) -> Any:
        return empty + _LOW, empty, empty

    def merge(self, state: Any, tile: Tile) -> Any:
        top, total, own = state
        more = tile.logits - tile.target
        top, total, *_ = _more(top, total, more, tile.there[None] & ~tile.own)
        return top, total, own + jnp.where(tile.own, more, 0.0).sum(axis=1)

    def end(self, state: Any, columns: int) -> tuple[jax.Array, Any]:
        top, total, own = state
        log_mean = (top - own) + jnp.log(total) - jnp.float32(math.log(max(columns - 1, 1)))
        value = jnp.logaddexp(jnp.float32(math.log(self.eps)), log_mean)
        return value, (top, jnp.log(total), jnp.exp(log_mean - value))

    def slope(self, kept: Any, tile: Tile) -> jax.Array:
        top, log_total, share = kept
        p = _softmax(tile.logits - tile.target, top, log_total)
        return share[:, None] * jnp.where(tile.own, -1.0, p)


def _more(
    top: jax.Array, total: jax.Array, logits: jax.Array, counts: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """New maximum, new sum of exponentials relative to it, what the old sum fades by, and the new exponentials.

    f32[n], f32[n], f32[n, c], and bool[n, c] or bool[1, c] -> f32[n] x3, f32[n, c].
    """
    logits = jnp.where(counts, logits, -jnp.inf)
    new = jnp.maximum(top, logits.max(axis=1))
    fade, parts = jnp.exp(top - new), jnp.exp(logits - new[:, None])
    return new, fade * total + parts.sum(axis=1), fade, parts


def _softmax(logits: jax.Array, top: jax.Array, log_total: jax.Array) -> jax.Array:
    return jnp.exp((logits - top[:, None]) - log_total[:, None])
