"""CSD: distillation from a student's own earlier weights, pair by pair as far as those weights were sure of the pair.

The idea is that of confidence-aware self-distillation for knowledge graphs, which publishes no equations; how it comes to
contrastive pairs is our own design. The teacher is the average of the weights, or the last epoch's embeddings.
"""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import Axes, gather, mean
from clip_jax.losses.logits import cross_entropy, divergence, logits_of, own_columns

_MOST = 3.0  # that one pair may weigh, where the mean is 1


def csd_features(
    image: jax.Array,
    text: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    teacher_scale: jax.Array,
    delta: float,
    *,
    axes: Axes = (),
) -> jax.Array:
    """mean_i w_i [H(|x_i - xbar_i|) + H(|y_i - ybar_i|)] with the pairs' `confidence` as w: f32[].

    H is Huber's loss of a distance d, d^2 / 2 up to delta and delta (d - delta / 2) beyond. Of the vectors' distance, not
    of each coordinate, so that it depends on neither the basis nor E; for delta >= 2 it is 1 - cos.
    image, text, teacher_image, teacher_text: this device's rows of unit-norm f32[N@axes, E]. teacher_scale: f32[], the
    factor on the teacher's cosines. delta: in distance of unit vectors, 0 to 2. No gradient flows to the teacher or w.
    """
    teacher_image, teacher_text = jax.lax.stop_gradient((teacher_image, teacher_text))
    apart = _huber(image, teacher_image, delta) + _huber(text, teacher_text, delta)
    return mean(confidence(teacher_image, teacher_text, teacher_scale, axes=axes) * apart, axes)


def csd_relations(
    image: jax.Array,
    text: jax.Array,
    scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    teacher_scale: jax.Array,
    *,
    axes: Axes = (),
) -> jax.Array:
    """mean_i w_i 1/2 [KL(Pbar_i // P_i) over the texts + the same over the images], w the pairs' `confidence`: f32[].

    P = softmax(s x y') of the student's unit-norm f32[N@axes, E], Pbar = softmax(sbar xbar ybar') of the teacher's
    f32[N@axes, D]. scale, teacher_scale: f32[], s and sbar. No gradient flows to the teacher or w.
    """
    teacher_image, teacher_text, teacher_scale = jax.lax.stop_gradient((teacher_image, teacher_text, teacher_scale))
    over_texts = divergence(
        logits_of(teacher_image, teacher_text, teacher_scale, axes=axes), logits_of(image, text, scale, axes=axes)
    )
    over_images = divergence(
        logits_of(teacher_text, teacher_image, teacher_scale, axes=axes), logits_of(text, image, scale, axes=axes)
    )
    weight = confidence(teacher_image, teacher_text, teacher_scale, axes=axes)
    return mean(weight * (over_texts + over_images) / 2, axes)


def confidence(
    teacher_image: jax.Array, teacher_text: jax.Array, teacher_scale: jax.Array, *, axes: Axes = ()
) -> jax.Array:
    """w_i = c_i / mean(c), at most 3, with c_i = sqrt(Pbar_ii(image to text) Pbar_ii(text to image)): f32[n], no gradient.

    Pbar is the softmax of the teacher's logits of this device's rows, f32[N@axes, D] and scale f32[], against the whole
    batch, over which the mean goes, too. In logarithms throughout: a teacher that gives every pair up weighs them still.
    """
    teacher_image, teacher_text, teacher_scale = jax.lax.stop_gradient((teacher_image, teacher_text, teacher_scale))
    own = own_columns(teacher_image.shape[0], axes)
    to_text = cross_entropy(logits_of(teacher_image, teacher_text, teacher_scale, axes=axes), own)
    to_image = cross_entropy(logits_of(teacher_text, teacher_image, teacher_scale, axes=axes), own)
    log_c = -(to_text + to_image) / 2
    everyones = gather(log_c, axes)
    log_mean = jax.nn.logsumexp(everyones) - jnp.log(jnp.float32(everyones.shape[0]))
    return jnp.minimum(jnp.exp(log_c - log_mean), _MOST)


def _huber(x: jax.Array, y: jax.Array, delta: float) -> jax.Array:
    """f32[n] of the distances between rows of f32[n, E] x2."""
    squared = jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)).sum(axis=1)
    near = squared <= delta**2
    distance = jnp.sqrt(jnp.where(near, 1.0, squared))  # a root has no slope at 0
    return jnp.where(near, squared / 2, delta * (distance - delta / 2))
