"""DRRho-CLIP: a contrastive loss of what the student has yet to learn beyond a reference model. Wei et al. 2025."""

import functools

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import HERE, GlobalBatch, mean
from clip_jax.losses.pairs import Embeddings, Pairs, both_ways, log_mean_exp_margin


def drrho(
    student: Embeddings, teacher: Embeddings, *, temperature: float, eps: float = 1e-4, batch: GlobalBatch = HERE
) -> jax.Array:
    """mean_i t log(eps + mean_{j != i} exp l_ij), the sum of both directions: f32[], at least 2 t log eps.

    l_ij = [(s_ij - s_ii) - (R_ij - R_ii)] / t, s and R the cosines of the student and the reference, whose sizes may differ.
    A negative weighs by how much worse than the reference the student tells it from the pair; one that is hard for both
    weighs less. temperature: t, fixed and common to both. One pair alone costs the constant 2 t log eps. No gradient flows
    to the reference.

    The official code moves each sample's mean over time (gamma). At gamma = 1 it keeps no state, and its gradient is
    this one's but for a factor on each row: with S = sum_{j != i} exp l_ij, it weighs by 1 / (eps + S / N) where the
    objective has 1 / (eps + S / (N - 1)), which makes a row up to N / (N - 1) as large. Its value is another: the
    surrogate of that gradient, plus constants.
    """
    sharp = jnp.float32(1 / temperature)
    reference = Pairs(*jax.lax.stop_gradient(teacher), sharp)
    cost = functools.partial(log_mean_exp_margin, eps=eps)
    return 2 * temperature * mean(both_ways(cost, reference, Pairs(*student, sharp), batch=batch), batch.axes)
