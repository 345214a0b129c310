"""A batch of pairs as a model embeds it, and the few ways in which losses reduce the rows of its logits.

A row is one image against the texts of all devices; `both_ways` sees to the texts against all images. What no more than
one loss makes of logits is here, too: nothing but this module and `gradients` holds those of the whole batch.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clip_jax.losses.collect import Axes
from clip_jax.losses.logits import cross_entropy, is_own, logits_of, own_columns

Embeddings = tuple[jax.Array, jax.Array]  # image, text: this device's rows of unit-norm f32[N@axes, E]


class Pairs(NamedTuple):
    """image, text: this device's rows of unit-norm f32[N@axes, E]. scale: f32[], the factor on their cosines. bias: f32[],
    added to logits under a sigmoid; a softmax, in which it would cancel, leaves it out.

    A loss that sets, say, a teacher's images beside a student's makes Pairs of them, too: two vectors to compare in a row.
    """

    image: jax.Array
    text: jax.Array
    scale: jax.Array
    bias: jax.Array | np.float32 = np.float32(0)

    @property
    def embeddings(self) -> Embeddings:
        return self.image, self.text


def swapped(pairs: Pairs) -> Pairs:
    """Its rows are texts against all images."""
    return pairs._replace(image=pairs.text, text=pairs.image)


def both_ways(per_row: Callable[..., jax.Array], *pairs: Pairs, axes: Axes) -> jax.Array:
    """1/2 [per_row(*pairs) + per_row(*swapped)], of a reduction below: f32[n]."""
    back = (swapped(one) for one in pairs)
    return (per_row(*pairs, axes=axes) + per_row(*back, axes=axes)) / 2


def pair_logits(pairs: Pairs, *, axes: Axes) -> jax.Array:
    """s x_i y_j', without the bias: f32[n, N]."""
    return logits_of(pairs.image, pairs.text, pairs.scale, axes=axes)


def own_cross_entropy(pairs: Pairs, *, axes: Axes) -> jax.Array:
    """-log softmax(s x_i y')_i, of each image's own text: f32[n]."""
    return cross_entropy(pair_logits(pairs, axes=axes), own_columns(pairs.image.shape[0], axes))


def soft_cross_entropy(target: Pairs, pairs: Pairs, *, axes: Axes, but_own: bool = False) -> jax.Array:
    """-sum_j p_ij log softmax(s x_i y')_j, p the target's softmax: f32[n]. but_own: over j != i alone."""
    p = jax.nn.softmax(pair_logits(target, axes=axes), axis=1)
    if but_own:
        p = jnp.where(is_own(p, axes), 0.0, p)
    return -(p * jax.nn.log_softmax(pair_logits(pairs, axes=axes), axis=1)).sum(axis=1)


def divergence(target: Pairs, pairs: Pairs, *, axes: Axes) -> jax.Array:
    """KL(p_i // softmax(s x_i y')), p the target's softmax: f32[n]."""
    log_p = jax.nn.log_softmax(pair_logits(target, axes=axes), axis=1)
    return (jnp.exp(log_p) * (log_p - jax.nn.log_softmax(pair_logits(pairs, axes=axes), axis=1))).sum(axis=1)


def sum_over_pairs(per_pair: Callable[..., jax.Array], *pairs: Pairs, axes: Axes) -> jax.Array:
    """sum_j per_pair(whether j = i, l_ij of each of `pairs`), l = s x y' + b: f32[n] for elementwise functions."""
    each = [pair_logits(one, axes=axes) + one.bias for one in pairs]
    return per_pair(is_own(each[0], axes), *each).sum(axis=1)


def log_mean_exp_margin(beyond: Pairs, pairs: Pairs, *, axes: Axes, eps: float) -> jax.Array:
    """log(eps + mean_{j != i} exp(l_ij - l_ii)), l = s x y' less that of `beyond`: f32[n]; log eps for one pair alone.

    The place of j = i takes eps (N - 1), so that one log-sum-exp holds it all, whatever the size of its terms.
    """
    more = pair_logits(pairs, axes=axes) - pair_logits(beyond, axes=axes)
    others = max(more.shape[1] - 1, 1)
    margins = more - jnp.take_along_axis(more, own_columns(more.shape[0], axes)[:, None], axis=1)
    margins = jnp.where(is_own(more, axes), jnp.float32(math.log(eps * others)), margins)
    return jax.nn.logsumexp(margins, axis=1) - jnp.float32(math.log(others))
