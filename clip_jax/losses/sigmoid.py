"""The sigmoid pair loss over the global batch: each pair of image and text is its own yes or no. Zhai et al. 2023, eq. 1."""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import HERE, GlobalBatch, mean
from clip_jax.losses.pairs import Pairs, sum_over_pairs


def sigmoid_pairs(pairs: Pairs, *, batch: GlobalBatch = HERE) -> jax.Array:
    """-1/N sum_ij log sigmoid(z_ij (s x_i y_j' + b)), z_ij = 1 for i = j, else -1: f32[]; from bf16 rows, too, in f32.

    Texts of all devices are gathered, and the gradient flows back through the gathering.
    """

    def cost(own: jax.Array, logits: jax.Array) -> jax.Array:
        return -jax.nn.log_sigmoid(jnp.where(own, logits, -logits))

    return mean(sum_over_pairs(cost, pairs, batch=batch), batch.axes)
