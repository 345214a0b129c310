"""CLIP-RD: relations between student and teacher that one modality teaches the other. Its code, 2026.

A_I = a_I U u' and A_T = a_T W w' relate the teacher's images U to the student's u, and the texts W to w; X1 = a_x U w' and
X2 = a_x W u' relate one's images to the other's texts. In all: the student's embeddings are projected where their own size
is another than the teacher's, to which no gradient flows; the scales a f32[] are learned factors on cosines (the official
code uses logarithms of them as they are, 2.66 in place of 14.3). All raise ValueError for sizes that differ.
"""

import jax

from clip_jax.losses.collect import HERE, GlobalBatch, mean
from clip_jax.losses.pairs import Embeddings, Pairs, both_ways, divergence, own_cross_entropy
from clip_jax.losses.sizes import check_same_size

Scales = tuple[jax.Array, jax.Array]  # a_I and a_T, f32[]


def vrd(student: Embeddings, teacher: Embeddings, scales: Scales, *, batch: GlobalBatch = HERE) -> jax.Array:
    """1/2 [KL(A_T // A_I) + KL(A_T' // A_I')], softmaxes over rows, A_T without gradient: f32[].

    The relations of texts teach those of images, so a gradient flows to image and a_I alone.
    """
    of_images, of_texts = _vertical(student, teacher, scales)
    return mean(both_ways(divergence, of_texts, of_images, batch=batch), batch.axes)


def vrd_ce(student: Embeddings, teacher: Embeddings, scales: Scales, *, batch: GlobalBatch = HERE) -> jax.Array:
    """1/2 [CE(A_I) + CE(A_I')] + 1/2 [CE(A_T) + CE(A_T')]: each sample knows its own embedding of the other model: f32[].

    It is in the official code only, and what teaches a_T; without it the target of `vrd` keeps its first scale.
    """
    of_images, of_texts = _vertical(student, teacher, scales)
    total = both_ways(own_cross_entropy, of_images, batch=batch) + both_ways(own_cross_entropy, of_texts, batch=batch)
    return mean(total, batch.axes)


def xrd(student: Pairs, teacher: Embeddings, *, batch: GlobalBatch = HERE) -> jax.Array:
    """1/4 [KL(X2 // X1) + KL(X1 // X2) + KL(X1' // X2') + KL(X2' // X1')], the first of each without gradient: f32[].

    student.scale is a_x.
    """
    teacher_image, teacher_text = jax.lax.stop_gradient(teacher)
    one = _related(teacher_image, student.text, student.scale)
    two = _related(teacher_text, student.image, student.scale)
    from_two = both_ways(divergence, two, one, batch=batch)
    from_one = both_ways(divergence, one, two, batch=batch)
    return mean((from_two + from_one) / 2, batch.axes)


def _vertical(student: Embeddings, teacher: Embeddings, scales: Scales) -> tuple[Pairs, Pairs]:
    """What A_I and A_T are of."""
    (image, text), (teacher_image, teacher_text) = student, jax.lax.stop_gradient(teacher)
    return _related(teacher_image, image, scales[0]), _related(teacher_text, text, scales[1])


def _related(teacher: jax.Array, student: jax.Array, scale: jax.Array) -> Pairs:
    check_same_size(student, teacher)
    return Pairs(teacher, student, scale)
