"""The teacher's N x N similarities as the student's targets: of any embedding size, since only cosines within a model meet.

In all: x, y, s, b are the student's image, text, scale and bias; x^, y^, s^, b^ the teacher's, to which no gradient flows.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import HERE, GlobalBatch, mean
from clip_jax.losses.pairs import Pairs, both_ways, divergence, soft_cross_entropy, sum_over_pairs


def crd(student: Pairs, teacher: Pairs, *, batch: GlobalBatch = HERE) -> jax.Array:
    """1/2 [KL(softmax(s^ x^ y^') // softmax(s x y')) + the same of texts over images], the mean over rows: f32[].

    Contrastive relational distillation at temperature 1, each model by its own scale. Yang et al. 2024 (CLIP-KD).
    """
    return mean(both_ways(divergence, teacher, student, batch=batch), batch.axes)


def affinity(student: Pairs, teacher: Pairs, *, batch: GlobalBatch = HERE) -> jax.Array:
    """1/2 [CE(softmax(s^ x^ y^'), s x y') + the same of texts over images], the mean over rows: f32[].

    Affinity mimicking: `crd` plus the entropy of the targets, so the same gradient. Wu et al. 2023 (TinyCLIP), whose code
    pins both scales at 50.
    """
    return mean(both_ways(soft_cross_entropy, teacher, student, batch=batch), batch.axes)


def reinforcement(student: Pairs, teachers: Sequence[tuple[Pairs, float]], *, batch: GlobalBatch = HERE) -> jax.Array:
    """1/2 [CE(Q, s x y') + CE(Q', s y x')] against the mean Q of all teachers' softmaxes, the mean over rows: f32[].

    teachers: with a weight each, of their own sizes and scales; Q = sum_k w_k softmax(s_k x^_k y^_k') with the weights
    made to sum to 1, and Q' that of texts over images. The softmaxes are averaged, not the logits; CE is linear in Q, so
    this is the mean of each teacher's `affinity`. Vasu et al. 2024 (MobileCLIP); with a scale for each teacher, Faghri et
    al. 2025 (MobileCLIP2). Raises ValueError without teachers, for negative weights and for weights that sum to zero.
    """
    weights = [weight for _, weight in teachers]
    if not all(weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise ValueError(f"weights of teachers {weights}: give one or more, none negative, not all zero")
    each = (weight / sum(weights) * affinity(student, teacher, batch=batch) for teacher, weight in teachers)
    return sum(each, jnp.zeros((), jnp.float32))


def sigmoid_distillation(student: Pairs, teacher: Pairs, *, batch: GlobalBatch = HERE) -> jax.Array:
    """-1/N sum_ij [q_ij log sigmoid(l_ij) + (1 - q_ij) log sigmoid(-l_ij)], l = s x y' + b, q = sigmoid(s^ x^ y^' + b^): f32[].

    Least where l is the teacher's logits. The published form puts 2q - 1 in place of the sign z inside log sigmoid(z l),
    which teaches nothing where q = 1/2: this is the cross-entropy it means.
    """

    def cost(_: jax.Array, target: jax.Array, logits: jax.Array) -> jax.Array:
        q = jax.nn.sigmoid(target)
        return -(q * jax.nn.log_sigmoid(logits) + (1 - q) * jax.nn.log_sigmoid(-logits))

    return mean(sum_over_pairs(cost, student, teacher, batch=batch), batch.axes)
