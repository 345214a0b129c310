"""DARK: the cross-entropy with the teacher in two parts, the pair itself and all the others, to be weighed apart. 2026.

p = softmax(s_T U W' / T) and log q = log softmax(s_S u w'), each image over the texts, of the teacher and the student, each by
its own scale and of its own size; the temperature T divides the teacher's logits alone. The paper's objective is the
contrastive loss + dark_match + beta dark_rest with T = 5 and beta falling linearly from 2 to -0.8. With beta below -1, or a
student's scale that may grow without limit, that sum has no lower bound. No gradient flows to the teacher.
"""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import HERE, GlobalBatch, mean
from clip_jax.losses.pairs import Pairs, own_cross_entropy, soft_cross_entropy


def dark_match(student: Pairs, teacher: Pairs, *, temperature: float, batch: GlobalBatch = HERE) -> jax.Array:
    """mean_i -p_ii log q_ii: f32[]."""
    sure = jnp.exp(-own_cross_entropy(_softened(teacher, temperature), batch=batch))
    return mean(sure * own_cross_entropy(student, batch=batch), batch.axes)


def dark_rest(student: Pairs, teacher: Pairs, *, temperature: float, batch: GlobalBatch = HERE) -> jax.Array:
    """mean_i sum_{j != i} -p_ij log q_ij: f32[]; one pair alone costs 0."""
    return mean(soft_cross_entropy(_softened(teacher, temperature), student, batch=batch, but_own=True), batch.axes)


def _softened(teacher: Pairs, temperature: float) -> Pairs:
    return jax.lax.stop_gradient(teacher._replace(scale=teacher.scale / temperature))
