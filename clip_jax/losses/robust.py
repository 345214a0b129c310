"""DRRho-CLIP: a contrastive loss of what the student has yet to learn beyond a reference model. Wei et al. 2025."""

import math

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import Axes, mean
from clip_jax.losses.logits import logits_of, own_columns


def drrho(
    image: jax.Array,
    text: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    *,
    temperature: float = 0.01,
    eps: float = 1e-4,
    axes: Axes = (),
) -> jax.Array:
    """mean_i t log(eps + mean_{j != i} exp l_ij), the sum of both directions: f32[], at least 2 t log eps.

    l_ij = [(s_ij - s_ii) - (R_ij - R_ii)] / t, s and R the cosines of the student and the reference. A negative weighs by
    how much worse than the reference the student tells it from the pair; one that is hard for both weighs less.
    image, text: this device's rows of unit-norm f32[N@axes, E]; teacher_image, teacher_text: the reference's
    f32[N@axes, D]. temperature: t, fixed and common to both. One pair alone costs the constant 2 t log eps.

    The official code moves each sample's mean over time (gamma). At gamma = 1 it keeps no state, and its gradient is
    this one's but for a factor on each row: with S = sum_{j != i} exp l_ij, it weighs by 1 / (eps + S / N) where the
    objective has 1 / (eps + S / (N - 1)), which makes a row up to N / (N - 1) as large. Its value is another: the
    surrogate of that gradient, plus constants.
    """
    teacher_image, teacher_text = jax.lax.stop_gradient((teacher_image, teacher_text))
    inverse = jnp.float32(1 / temperature)
    own = own_columns(image.shape[0], axes)
    sharper = logits_of(image, text, inverse, axes=axes) - logits_of(teacher_image, teacher_text, inverse, axes=axes)
    to_text = _log_mean_exp(sharper, own, eps)
    sharper = logits_of(text, image, inverse, axes=axes) - logits_of(teacher_text, teacher_image, inverse, axes=axes)
    to_image = _log_mean_exp(sharper, own, eps)
    return temperature * mean(to_text + to_image, axes)


def _log_mean_exp(logits: jax.Array, own: jax.Array, eps: float) -> jax.Array:
    """log(eps + mean_{j != i} exp(logits_ij - logits_ii)) of each row: f32[n] for f32[n, N] and i32[n].

    The place of j = i takes eps (N - 1), so that one log-sum-exp holds it all, whatever the size of its terms.
    """
    others = max(logits.shape[1] - 1, 1)
    margins = logits - jnp.take_along_axis(logits, own[:, None], axis=1)
    columns = jnp.arange(logits.shape[1], dtype=jnp.int32)
    margins = jnp.where(columns[None] == own[:, None], jnp.float32(math.log(eps * others)), margins)
    return jax.nn.logsumexp(margins, axis=1) - jnp.float32(math.log(others))
