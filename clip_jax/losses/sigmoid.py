"""The sigmoid pair loss over the global batch: each pair of image and text is its own yes or no. Zhai et al. 2023, eq. 1."""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import Axes, mean
from clip_jax.losses.logits import logits_of, own_columns


def sigmoid_pairs(
    image: jax.Array, text: jax.Array, scale: jax.Array, bias: jax.Array, *, axes: Axes = ()
) -> jax.Array:
    """-1/N sum_ij log sigmoid(z_ij (s x_i y_j' + b)), z_ij = 1 for i = j, else -1: f32[].

    image, text: this device's rows of unit-norm f32[N@axes, E]; from bf16 rows, too, products and sums are in f32.
    scale, bias: f32[], s > 0 and b. axes: names of the mesh axes that cut the batch, inside `jax.shard_map`; () on one
    device. Texts of all devices are gathered, and the gradient flows back through the gathering.
    """
    logits = logits_of(image, text, scale, axes=axes) + bias
    own = own_columns(image.shape[0], axes)
    matching = jnp.arange(logits.shape[1], dtype=jnp.int32)[None] == own[:, None]
    return mean(-jax.nn.log_sigmoid(jnp.where(matching, logits, -logits)).sum(axis=1), axes)
