"""Gradient distillation: the contrastive loss should pull at the student's embeddings as it does at the teacher's.

Yang et al. 2024 (CLIP-KD). Of anchors p and keys k at temperature t = 1/s, L = CE(s p k') has P = softmax(s p k'), E = P - I,
dL/dp = s E k / N, dL/dk = s E' p / N.
"""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import Axes, gather, mean
from clip_jax.losses.logits import logits_of, own_columns
from clip_jax.losses.sizes import check_sizes


def gd(
    image: jax.Array,
    text: jax.Array,
    scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    teacher_scale: jax.Array,
    *,
    axes: Axes = (),
) -> jax.Array:
    """sum of 4 mean((g - g^)^2) over N D, g the `contrastive_gradients` of the student, g^ of the teacher: f32[].

    image, text: this device's rows of the student's unit-norm f32[N@axes, D], projected where its own size is another;
    teacher_image, teacher_text the teacher's, f32[N@axes, D]. scale, teacher_scale: f32[], s and s^. axes: names of the mesh
    axes that cut the batch, inside `jax.shard_map`; () on one device. The student's gradient flows through its own P, too;
    none flows to the teacher. Raises ValueError for sizes that differ.

    The official code divides by exp(logit_scale) in place of the temperature: cosines over 100 where times 100 is meant, so
    all its P are nearly uniform and the loss, at its weight of 1e8, teaches next to nothing. Its E' p takes a tensor of
    N x D x N; here nothing exceeds N x N.
    """
    check_sizes(image, teacher_image)
    check_sizes(text, teacher_text)
    fixed = jax.lax.stop_gradient((teacher_image, teacher_text, teacher_scale))
    pairs = zip(
        contrastive_gradients(image, text, scale, axes=axes), contrastive_gradients(*fixed, axes=axes), strict=True
    )
    return sum((mean(jnp.square(own - target).mean(axis=1), axes) for own, target in pairs), jnp.zeros((), jnp.float32))


def contrastive_gradients(
    image: jax.Array, text: jax.Array, scale: jax.Array, *, axes: Axes = ()
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """f32[n, D] x4, this device's rows of CE(s x y')'s gradients in x and y, then CE(s y x')'s in y and x.

    Half their sum in x is that of `info_nce`, and so in y. Rows of E' need no sum over devices: they are columns of P, known
    from this device's logits the other way round and all devices' normalisers, one number a row.
    """
    own = own_columns(image.shape[0], axes)
    to_texts, to_images = logits_of(image, text, scale, axes=axes), logits_of(text, image, scale, axes=axes)
    all_images, all_texts = gather(image.astype(jnp.float32), axes), gather(text.astype(jnp.float32), axes)
    total = to_texts.shape[1]
    match = (jnp.arange(total, dtype=jnp.int32)[None] == own[:, None]).astype(jnp.float32)
    of_images, of_texts = jax.nn.logsumexp(to_texts, axis=1), jax.nn.logsumexp(to_images, axis=1)

    def pull(logits: jax.Array, normaliser: jax.Array, keys: jax.Array) -> jax.Array:
        return scale / total * jnp.matmul(jnp.exp(logits - normaliser) - match, keys, precision="highest")

    return (
        pull(to_texts, of_images[:, None], all_texts),
        pull(to_images, gather(of_images, axes)[None], all_images),
        pull(to_images, of_texts[:, None], all_images),
        pull(to_texts, gather(of_texts, axes)[None], all_texts),
    )
