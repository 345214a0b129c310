"""A batch of pairs as a model embeds it, and the few ways in which losses reduce the rows of its logits.

A row is one image against the texts of all devices; `both_ways` sees to the texts against all images. Each reduction is written
twice: plainly, over whole rows of gathered logits, and in `tiles` for the other forms of the batch. What no more than one
loss makes of logits is here, too: nothing but this module, `tiles` and `gradients` sees them.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clip_jax.losses.collect import GlobalBatch
from clip_jax.losses.logits import cross_entropy, is_own, logits_of, own_columns
from clip_jax.losses.reductions import LogMeanExpMargin, OwnCrossEntropy, Reduction, SoftCrossEntropy, Sum
from clip_jax.losses.tiles import Sides, reduced

_NO_BIAS = np.float32(0)

Embeddings = tuple[jax.Array, jax.Array]  # image, text: this device's rows of unit-norm f32[N@axes, E]


class Pairs(NamedTuple):
    """image, text: this device's rows of unit-norm f32[N@axes, E]. scale: f32[], the factor on their cosines. bias: f32[],
    added to logits under a sigmoid; a softmax, in which it would cancel, leaves it out.

    A loss that sets, say, a teacher's images beside a student's makes Pairs of them, too: two vectors to compare in a row.
    """

    image: jax.Array
    text: jax.Array
    scale: jax.Array
    bias: jax.Array | np.float32 = _NO_BIAS

    @property
    def embeddings(self) -> Embeddings:
        return self.image, self.text


def swapped(pairs: Pairs) -> Pairs:
    """Its rows are texts against all images."""
    return pairs._replace(image=pairs.text, text=pairs.image)


def both_ways(per_row: Callable[..., jax.Array], *pairs: Pairs, batch: GlobalBatch) -> jax.Array:
    """1/2 [per_row(*pairs) + per_row(*swapped)], of a reduction below: f32[n]."""
    back = (swapped(one) for one in pairs)
    return (per_row(*pairs, batch=batch) + per_row(*back, batch=batch)) / 2


def pair_logits(pairs: Pairs, *, batch: GlobalBatch) -> jax.Array:
    """s x_i y_j', without the bias: f32[n, N], all at once."""
    return logits_of(pairs.image, pairs.text, pairs.scale, axes=batch.axes)


def own_cross_entropy(pairs: Pairs, *, batch: GlobalBatch) -> jax.Array:
    """-log softmax(s x_i y')_i, of each image's own text: f32[n]."""
    if batch.form != "gathered":
        return _in_tiles(OwnCrossEntropy(), pairs, batch=batch)
    return cross_entropy(pair_logits(pairs, batch=batch), own_columns(pairs.image.shape[0], batch.axes))


def soft_cross_entropy(target: Pairs, pairs: Pairs, *, batch: GlobalBatch, but_own: bool = False) -> jax.Array:
    """-sum_j p_ij log softmax(s x_i y')_j, p the target's softmax, without gradient: f32[n]. but_own: over j != i alone."""
    if batch.form != "gathered":
        return _in_tiles(SoftCrossEntropy(but_own=but_own), pairs, target, batch=batch)
    p = jax.nn.softmax(pair_logits(jax.lax.stop_gradient(target), batch=batch), axis=1)
    if but_own:
        p = jnp.where(is_own(p, batch.axes), 0.0, p)
    return -(p * jax.nn.log_softmax(pair_logits(pairs, batch=batch), axis=1)).sum(axis=1)


def divergence(target: Pairs, pairs: Pairs, *, batch: GlobalBatch) -> jax.Array:
    """KL(p_i // softmax(s x_i y')), p the target's softmax, without gradient: f32[n]."""
    if batch.form != "gathered":
        return _in_tiles(SoftCrossEntropy(less_entropy=True), pairs, target, batch=batch)
    log_p = jax.nn.log_softmax(pair_logits(jax.lax.stop_gradient(target), batch=batch), axis=1)
    return (jnp.exp(log_p) * (log_p - jax.nn.log_softmax(pair_logits(pairs, batch=batch), axis=1))).sum(axis=1)


def sum_over_pairs(
    per_pair: Callable[..., jax.Array], pairs: Pairs, target: Pairs | None = None, *, batch: GlobalBatch
) -> jax.Array:
    """sum_j per_pair(whether j = i, l_ij of the target where there is one, l_ij), l = s x y' + b: f32[n].

    per_pair: elementwise. No gradient flows to the target.
    """
    if batch.form != "gathered":
        return reduced(Sum(per_pair), Sides(*pairs), None if target is None else Sides(*target), batch)
    of = (pairs,) if target is None else (jax.lax.stop_gradient(target), pairs)
    each = [pair_logits(one, batch=batch) + one.bias for one in of]
    return per_pair(is_own(each[0], batch.axes), *each).sum(axis=1)


def log_mean_exp_margin(target: Pairs, pairs: Pairs, *, batch: GlobalBatch, eps: float) -> jax.Array:
    """log(eps + mean_{j != i} exp(l_ij - l_ii)), l = s x y' less that of the target, which gets no gradient: f32[n].

    log eps for one pair alone. The place of j = i takes eps (N - 1), so that one log-sum-exp holds it all, whatever the size
    of its terms.
    """
    if batch.form != "gathered":
        return _in_tiles(LogMeanExpMargin(eps), pairs, target, batch=batch)
    more = pair_logits(pairs, batch=batch) - pair_logits(jax.lax.stop_gradient(target), batch=batch)
    others = max(more.shape[1] - 1, 1)
    margins = more - jnp.take_along_axis(more, own_columns(more.shape[0], batch.axes)[:, None], axis=1)
    margins = jnp.where(is_own(more, batch.axes), jnp.float32(math.log(eps * others)), margins)
    return jax.nn.logsumexp(margins, axis=1) - jnp.float32(math.log(others))


def _in_tiles(reduction: Reduction, pairs: Pairs, target: Pairs | None = None, *, batch: GlobalBatch) -> jax.Array:
    """Of a reduction by softmax."""
    sides, fixed = (one and Sides(one.image, one.text, one.scale, _NO_BIAS) for one in (pairs, target))
    assert sides is not None
    return reduced(reduction, sides, fixed, batch)
