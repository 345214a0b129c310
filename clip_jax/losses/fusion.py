"""Augmented feature distillation: student and teacher fused into one embedding a modality. Yang et al. 2024 (CLIP-KD)."""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import HERE, GlobalBatch
from clip_jax.losses.contrastive import info_nce
from clip_jax.losses.pairs import Embeddings, Pairs


def afd(
    student: Pairs, teacher: Embeddings, image_kernel: jax.Array, text_kernel: jax.Array, *, batch: GlobalBatch = HERE
) -> jax.Array:
    """1/2 [CE(f v u') + CE(f u v')], v = norm([x; x^] W_v), u = norm([y; y^] W_u), the mean over all N pairs: f32[].

    student: its embeddings x, y f32[N@axes, S], projected or not, and the learned factor f on cosines as its scale; the
    official code takes f's logarithm for it. teacher: x^, y^ f32[N@axes, D]. image_kernel, text_kernel: W_v and W_u,
    f32[S + D, E], whole on each device. A gradient flows to the student, the kernels and f, none to the teacher. Raises
    ValueError where a kernel has not S + D rows.
    """
    image = _fused(student.image, teacher[0], image_kernel)
    return info_nce(Pairs(image, _fused(student.text, teacher[1], text_kernel), student.scale), batch=batch)


def _fused(student: jax.Array, teacher: jax.Array, kernel: jax.Array) -> jax.Array:
    """Unit-norm f32[n, E] of f32[n, S], f32[n, D] and f32[S + D, E]."""
    if kernel.shape[0] != student.shape[1] + teacher.shape[1]:
        raise ValueError(
            f"a fusion kernel of {kernel.shape[0]} rows, for embeddings of {student.shape[1]} (student) and "
            f"{teacher.shape[1]} (teacher); give it {student.shape[1] + teacher.shape[1]}"
        )
    both = jnp.concatenate([student, jax.lax.stop_gradient(teacher)], axis=1).astype(jnp.float32)
    fused = jnp.matmul(both, kernel, precision="highest")
    return fused * jax.lax.rsqrt(jnp.square(fused).sum(axis=1, keepdims=True) + jnp.float32(1e-12))
