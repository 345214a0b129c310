"""The student's embeddings as anchors among the teacher's of the other modality. Yang et al. 2024 (CLIP-KD).

In both: student's embeddings x, y are projected where their own size is another than the teacher's, x^, y^. student.scale is
k, learned with the student; the official code takes its logarithm for the factor: 2.66 where 14.3 is meant. No gradient
flows to the teacher. Both raise ValueError for sizes that differ.
"""

import jax

from clip_jax.losses.collect import HERE, GlobalBatch, mean
from clip_jax.losses.pairs import Embeddings, Pairs, divergence, own_cross_entropy, swapped
from clip_jax.losses.sizes import check_same_size


def icl(student: Pairs, teacher: Embeddings, *, batch: GlobalBatch = HERE) -> jax.Array:
    """1/2 [CE(k x y^') + CE(k y x^')], the mean over all N anchors: f32[]. Interactive contrastive learning."""
    among_texts, among_images = _anchored(student, teacher)
    total = own_cross_entropy(among_texts, batch=batch) + own_cross_entropy(among_images, batch=batch)
    return mean(total / 2, batch.axes)


def cross_kd(student: Pairs, teacher: Pairs, *, batch: GlobalBatch = HERE) -> jax.Array:
    """1/2 [KL(softmax(s^ x^ y^') // softmax(k x y^')) + KL(softmax(s^ y^ x^') // softmax(k y x^'))], mean over rows: f32[].

    teacher.scale is s^. In the official code only, with weight 0: each anchor ranks the teacher's embeddings as the
    teacher does.
    """
    teacher = jax.lax.stop_gradient(teacher)
    among_texts, among_images = _anchored(student, teacher.embeddings)
    total = divergence(teacher, among_texts, batch=batch) + divergence(swapped(teacher), among_images, batch=batch)
    return mean(total / 2, batch.axes)


def _anchored(student: Pairs, teacher: Embeddings) -> tuple[Pairs, Pairs]:
    """(x beside y^, y beside x^) by the student's scale."""
    image, text = jax.lax.stop_gradient(teacher)
    check_same_size(student.image, text)
    check_same_size(student.text, image)
    return Pairs(student.image, text, student.scale), Pairs(student.text, image, student.scale)
