"""InfoNCE over the global batch, both directions. Radford et al. 2021, figure 3."""

import jax

from clip_jax.losses.collect import Axes, mean
from clip_jax.losses.logits import cross_entropy, logits_of, own_columns


def info_nce(image: jax.Array, text: jax.Array, scale: jax.Array, *, axes: Axes = ()) -> jax.Array:
    """1/2 [CE(s x y') + CE(s y x')], the mean over all N pairs: f32[].

    image, text: this device's rows of unit-norm f32[N@axes, E]; from bf16 rows, too, products and softmax are in f32.
    scale: f32[], the factor on cosines.
    axes: names of the mesh axes that cut the batch, inside `jax.shard_map`; () on one device. Embeddings of all
    devices are gathered, and the gradient flows back through the gathering, so it equals that of one large batch.
    """
    own = own_columns(image.shape[0], axes)
    from_image = cross_entropy(logits_of(image, text, scale, axes=axes), own)
    from_text = cross_entropy(logits_of(text, image, scale, axes=axes), own)
    return mean((from_image + from_text) / 2, axes)
