"""Embeddings against the teacher's own, pair by pair: feature distillation (Yang et al. 2024, CLIP-KD), and images alone.

In all: x, y are this device's rows of the student's unit-norm f32[N@axes, D], projected where its own size is another; x^, y^
the teacher's f32[N@axes, D]. No gradient flows to the teacher. All raise ValueError for sizes that differ.

The losses of images alone leave the text tower to the teacher. They are for a student that serves the teacher's own text
embeddings; which of them PicCollage's student was trained with is not published.
"""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import HERE, GlobalBatch, mean
from clip_jax.losses.pairs import Embeddings
from clip_jax.losses.sizes import check_same_size


def fd(student: Embeddings, teacher: Embeddings, *, batch: GlobalBatch = HERE) -> jax.Array:
    """mean((x - x^)^2) + mean((y - y^)^2), means over N D: f32[].

    A sum over D divided by D: the published weight of 2000 means less the larger D is, see `fd_cosine`. MFD is this loss
    with the embeddings of masked images as the student's.
    """
    (image, text), (teacher_image, teacher_text) = student, teacher
    return image_mse(image, teacher_image, batch=batch) + image_mse(text, teacher_text, batch=batch)


def fd_cosine(student: Embeddings, teacher: Embeddings, *, batch: GlobalBatch = HERE) -> jax.Array:
    """mean(1 - cos(x, x^)) + mean(1 - cos(y, y^)), means over N: f32[]. Its weight means the same for every D.

    2000 fd = (4000 / D) fd_cosine: 7.81 at D = 512, 5.21 at 768.
    """
    (image, text), (teacher_image, teacher_text) = student, teacher
    return image_cosine(image, teacher_image, batch=batch) + image_cosine(text, teacher_text, batch=batch)


def image_l1(image: jax.Array, teacher_image: jax.Array, *, batch: GlobalBatch = HERE) -> jax.Array:
    """mean |x - x^| over N D: f32[]; a coordinate that agrees has no gradient."""
    difference = apart(image, teacher_image)
    return mean((difference * jnp.sign(difference)).mean(axis=1), batch.axes)  # jnp.abs has slope 1 at 0


def image_mse(image: jax.Array, teacher_image: jax.Array, *, batch: GlobalBatch = HERE) -> jax.Array:
    """mean((x - x^)^2) over N D: f32[]."""
    return mean(jnp.square(apart(image, teacher_image)).mean(axis=1), batch.axes)


def image_cosine(image: jax.Array, teacher_image: jax.Array, *, batch: GlobalBatch = HERE) -> jax.Array:
    """mean(1 - cos(x, x^)) over N: f32[].

    By |x - x^|^2 / 2, which of unit vectors is the same, keeps its digits where the two nearly agree, and then has no
    gradient at all.
    """
    return mean(jnp.square(apart(image, teacher_image)).sum(axis=1) / 2, batch.axes)


def apart(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """x - x^ in f32, gradient to x alone: f32[n, D]."""
    check_same_size(student, teacher)
    return student.astype(jnp.float32) - jax.lax.stop_gradient(teacher).astype(jnp.float32)
