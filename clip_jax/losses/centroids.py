"""CLIP-Embed-KD: a teacher's class centroids, or its embeddings of the batch, in the place of a text tower. Nair 2024.

The paper's objective is 1/2 `centroid` + `classification`, labelled data only; centroids come from `data.centroids`. They are
means of unit-norm final embeddings, as a store holds, where the original has means of the teacher's raw CLS features; and the
classifier, too, sees the student's unit-norm embeddings.
"""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import HERE, GlobalBatch, mean
from clip_jax.losses.logits import cross_entropy, logits_of
from clip_jax.losses.pairs import Pairs, own_cross_entropy
from clip_jax.losses.sizes import check_same_size


def centroid(
    embedding: jax.Array, label: jax.Array, centroids: jax.Array, scale: jax.Array, *, batch: GlobalBatch = HERE
) -> jax.Array:
    """CE(s h c', label), the mean over all labelled rows: f32[].

    embedding: this device's rows h of unit-norm f32[N@axes, D]. label: i32[N@axes], -1 for a row without, which is left
    out; a batch of none costs 0. centroids: unit-norm f32[C, D], whole on every device. scale: f32[] (the official code
    has none, which is 1). Centroids get a gradient, for the paper projects them by a learned matrix; stop it before where
    the student shall not pull them along.
    """
    return classification(logits_of(embedding, centroids, scale), label, batch=batch)


def classification(logits: jax.Array, label: jax.Array, *, batch: GlobalBatch = HERE) -> jax.Array:
    """CE(logits, label) of a linear classifier, the mean over all labelled rows: f32[].

    logits: this device's rows of f32[N@axes, C], before any softmax (the official code applies it twice). label:
    i32[N@axes], -1 for a row without, which is left out; a batch of none costs 0.
    """
    labelled = label >= 0
    per_row = cross_entropy(logits.astype(jnp.float32), jnp.where(labelled, label, 0))
    share = mean(labelled.astype(jnp.float32), batch.axes)
    return mean(jnp.where(labelled, per_row, 0.0), batch.axes) / jnp.where(share > 0, share, 1.0)


def full_teacher(
    image: jax.Array, teacher_image: jax.Array, learned_scale: jax.Array, *, batch: GlobalBatch = HERE
) -> jax.Array:
    """CE(k x x^', i), the student's image against the teacher's embeddings of the batch in place of centroids: f32[].

    image, teacher_image: this device's rows of unit-norm f32[N@axes, D], the student's projected where its size is
    another. learned_scale: f32[], k. No gradient flows to the teacher. Raises ValueError for sizes that differ.
    """
    check_same_size(image, teacher_image)
    both = Pairs(image, jax.lax.stop_gradient(teacher_image), learned_scale)
    return mean(own_cross_entropy(both, batch=batch), batch.axes)
