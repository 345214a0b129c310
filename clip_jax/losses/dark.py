"""DARK: the cross-entropy with the teacher in two parts, the pair itself and all the others, to be weighed apart. 2026.

p = softmax(s_T U W' / T) and log q = log softmax(s_S u w'), each image over the texts; T divides the teacher's logits alone.
The paper's objective is the contrastive loss + dark_match + beta dark_rest with beta falling linearly from 2 to -0.8. With
beta below -1, or a student's scale that may grow without limit, that sum has no lower bound.
"""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import Axes, mean
from clip_jax.losses.logits import cross_entropy, logits_of, own_columns


def dark_match(
    image: jax.Array,
    text: jax.Array,
    scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    teacher_scale: jax.Array,
    *,
    temperature: float = 5.0,
    axes: Axes = (),
) -> jax.Array:
    """mean_i -p_ii log q_ii: f32[].

    image, text: this device's rows of the student's unit-norm f32[N@axes, E]; teacher_image, teacher_text: the teacher's
    f32[N@axes, D]. scale, teacher_scale: f32[], s_S and s_T. temperature: T. No gradient flows to the teacher.
    """
    own = own_columns(image.shape[0], axes)
    target = _teacher_logits(teacher_image, teacher_text, teacher_scale / temperature, axes)
    sure = jnp.exp(-cross_entropy(target, own))
    return mean(sure * cross_entropy(logits_of(image, text, scale, axes=axes), own), axes)


def dark_rest(
    image: jax.Array,
    text: jax.Array,
    scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    teacher_scale: jax.Array,
    *,
    temperature: float = 5.0,
    axes: Axes = (),
) -> jax.Array:
    """mean_i sum_{j != i} -p_ij log q_ij, of the arguments of `dark_match`: f32[]; one pair alone costs 0."""
    own = own_columns(image.shape[0], axes)
    target = jax.nn.softmax(_teacher_logits(teacher_image, teacher_text, teacher_scale / temperature, axes), axis=1)
    columns = jnp.arange(target.shape[1], dtype=jnp.int32)
    others = jnp.where(columns[None] == own[:, None], 0.0, target)
    log_q = jax.nn.log_softmax(logits_of(image, text, scale, axes=axes), axis=1)
    return mean(-(others * log_q).sum(axis=1), axes)


def _teacher_logits(image: jax.Array, text: jax.Array, scale: jax.Array, axes: Axes) -> jax.Array:
    """f32[n, N], without gradient."""
    return jax.lax.stop_gradient(logits_of(image, text, scale, axes=axes))
