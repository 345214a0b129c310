"""InfoNCE over the global batch, both directions. Radford et al. 2021, figure 3."""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import Axes, gather, mean, offset


def info_nce(image: jax.Array, text: jax.Array, scale: jax.Array, *, axes: Axes = ()) -> jax.Array:
    """1/2 [CE(s x y') + CE(s y x')], the mean over all N pairs: f32[].

    image, text: this device's rows of unit-norm f32[N@axes, E]; from bf16 rows, too, products and softmax are in f32.
    scale: f32[], the factor on cosines.
    axes: names of the mesh axes that cut the batch, inside `jax.shard_map`; () on one device. Embeddings of all
    devices are gathered, and the gradient flows back through the gathering, so it equals that of one large batch.
    """
    from_image = _cross_entropy(image, gather(text, axes), scale, axes)
    from_text = _cross_entropy(text, gather(image, axes), scale, axes)
    return mean((from_image + from_text) / 2, axes)


def _cross_entropy(queries: jax.Array, keys: jax.Array, scale: jax.Array, axes: Axes) -> jax.Array:
    """Per query, -log softmax(scale q k')[its own pair]: f32[n] for f32[n, E] against f32[N, E]."""
    logits = scale * jnp.matmul(queries, keys.T, precision="highest", preferred_element_type=jnp.float32)
    own = offset(queries.shape[0], axes) + jnp.arange(queries.shape[0], dtype=jnp.int32)
    matching = jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - matching
