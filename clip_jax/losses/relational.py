"""CLIP-RD: relations between student and teacher that one modality teaches the other. Its code, 2026.

A_I = a_I U u' and A_T = a_T W w' relate the teacher's images U to the student's u, and the texts W to w; X1 = a_x U w' and
X2 = a_x W u' relate one's images to the other's texts. In all: image, text are this device's rows of the student's
unit-norm f32[N@axes, D], projected where its size is another; teacher_image, teacher_text those of the teacher; the scales
a f32[] are learned factors on cosines (the official code uses logarithms of them as they are, 2.66 in place of 14.3).
"""

import jax

from clip_jax.losses.collect import Axes, mean
from clip_jax.losses.logits import cross_entropy, divergence, logits_of, own_columns


def vrd(
    image: jax.Array,
    text: jax.Array,
    image_scale: jax.Array,
    text_scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    *,
    axes: Axes = (),
) -> jax.Array:
    """1/2 [KL(A_T // A_I) + KL(A_T' // A_I')], softmaxes over rows, A_T without gradient: f32[].

    The relations of texts teach those of images, so a gradient flows to image and image_scale alone.
    """
    text, text_scale = jax.lax.stop_gradient((text, text_scale))
    teacher_image, teacher_text = jax.lax.stop_gradient((teacher_image, teacher_text))
    rows = divergence(
        logits_of(teacher_text, text, text_scale, axes=axes), logits_of(teacher_image, image, image_scale, axes=axes)
    )
    columns = divergence(
        logits_of(text, teacher_text, text_scale, axes=axes), logits_of(image, teacher_image, image_scale, axes=axes)
    )
    return mean((rows + columns) / 2, axes)


def vrd_ce(
    image: jax.Array,
    text: jax.Array,
    image_scale: jax.Array,
    text_scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    *,
    axes: Axes = (),
) -> jax.Array:
    """1/2 [CE(A_I) + CE(A_I')] + 1/2 [CE(A_T) + CE(A_T')]: each sample knows its own embedding of the other model: f32[].

    It is in the official code only, and what teaches a_T; without it the target of `vrd` keeps its first scale.
    """
    teacher_image, teacher_text = jax.lax.stop_gradient((teacher_image, teacher_text))
    own = own_columns(image.shape[0], axes)
    total = (
        cross_entropy(logits_of(teacher_image, image, image_scale, axes=axes), own)
        + cross_entropy(logits_of(image, teacher_image, image_scale, axes=axes), own)
        + cross_entropy(logits_of(teacher_text, text, text_scale, axes=axes), own)
        + cross_entropy(logits_of(text, teacher_text, text_scale, axes=axes), own)
    )
    return mean(total / 2, axes)


def xrd(
    image: jax.Array,
    text: jax.Array,
    cross_scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    *,
    axes: Axes = (),
) -> jax.Array:
    """1/4 [KL(X2 // X1) + KL(X1 // X2) + KL(X1' // X2') + KL(X2' // X1')], the first of each without gradient: f32[]."""
    teacher_image, teacher_text = jax.lax.stop_gradient((teacher_image, teacher_text))
    total = _each_teaches_the_other(
        logits_of(teacher_image, text, cross_scale, axes=axes), logits_of(teacher_text, image, cross_scale, axes=axes)
    ) + _each_teaches_the_other(
        logits_of(text, teacher_image, cross_scale, axes=axes), logits_of(image, teacher_text, cross_scale, axes=axes)
    )
    return mean(total / 4, axes)


def _each_teaches_the_other(a: jax.Array, b: jax.Array) -> jax.Array:
    """KL(b // a) + KL(a // b) of softmaxes of each row, without gradient to the first: f32[n] for f32[n, N] x2."""
    return divergence(jax.lax.stop_gradient(b), a) + divergence(jax.lax.stop_gradient(a), b)
