"""CSD: distillation from a student's own earlier weights, pair by pair as far as those weights were sure of the pair.

The idea is that of confidence-aware self-distillation for knowledge graphs, which publishes no equations; how it comes to
contrastive pairs is our own design. The teacher is the average of the weights, or the last epoch's embeddings. In all:
xbar, ybar, sbar are the teacher's image, text and scale; no gradient flows to them or the weights w.
"""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import HERE, GlobalBatch, gather, mean
from clip_jax.losses.features import apart
from clip_jax.losses.pairs import Embeddings, Pairs, both_ways, divergence, own_cross_entropy

_MOST = 3.0  # that one pair may weigh, where the mean is 1


def csd_features(student: Embeddings, teacher: Pairs, *, delta: float, batch: GlobalBatch = HERE) -> jax.Array:
    """mean_i w_i [H(|x_i - xbar_i|) + H(|y_i - ybar_i|)] with the pairs' `confidence` as w: f32[].

    H is Huber's loss of a distance d, d^2 / 2 up to delta and delta (d - delta / 2) beyond. Of the vectors' distance, not
    of each coordinate, so that it depends on neither the basis nor E; for delta >= 2 it is 1 - cos.
    delta: in distance of unit vectors, 0 to 2. Raises ValueError for sizes that differ.
    """
    image, text = student
    total = _huber(apart(image, teacher.image), delta) + _huber(apart(text, teacher.text), delta)
    return mean(confidence(teacher, batch=batch) * total, batch.axes)


def csd_relations(student: Pairs, teacher: Pairs, *, batch: GlobalBatch = HERE) -> jax.Array:
    """mean_i w_i 1/2 [KL(Pbar_i // P_i) over the texts + the same over the images], w the pairs' `confidence`: f32[].

    P = softmax(s x y') of the student, Pbar = softmax(sbar xbar ybar') of the teacher, whose sizes may differ.
    """
    per_row = both_ways(divergence, teacher, student, batch=batch)
    return mean(confidence(teacher, batch=batch) * per_row, batch.axes)


def confidence(teacher: Pairs, *, batch: GlobalBatch = HERE) -> jax.Array:
    """w_i = c_i / mean(c), at most 3, with c_i = sqrt(Pbar_ii(image to text) Pbar_ii(text to image)): f32[n], no gradient.

    Pbar is the softmax of the teacher's logits of this device's rows against the whole batch, over which the mean goes,
    too. In logarithms throughout: a teacher that gives every pair up weighs them still.
    """
    log_c = -both_ways(own_cross_entropy, jax.lax.stop_gradient(teacher), batch=batch)
    everyones = gather(log_c, batch.axes)
    log_mean = jax.nn.logsumexp(everyones) - jnp.log(jnp.float32(everyones.shape[0]))
    return jnp.minimum(jnp.exp(log_c - log_mean), _MOST)


def _huber(apart: jax.Array, delta: float) -> jax.Array:
    """f32[n] of the lengths of rows of f32[n, E]."""
    squared = jnp.square(apart).sum(axis=1)
    near = squared <= delta**2
    distance = jnp.sqrt(jnp.where(near, 1.0, squared))  # a root has no slope at 0
    return jnp.where(near, squared / 2, delta * (distance - delta / 2))
