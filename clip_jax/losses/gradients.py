"""Gradient distillation: the contrastive loss should pull at the student's embeddings as it does at the teacher's.

Yang et al. 2024 (CLIP-KD). Of anchors p and keys k at temperature t = 1/s, L = CE(s p k') has P = softmax(s p k'), E = P - I,
dL/dp = s E k / N, dL/dk = s E' p / N.
"""

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import HERE, GlobalBatch, gather, mean
from clip_jax.losses.logits import is_own
from clip_jax.losses.pairs import Pairs, pair_logits, swapped
from clip_jax.losses.sizes import check_same_size


def gd(student: Pairs, teacher: Pairs, *, batch: GlobalBatch = HERE) -> jax.Array:
    """sum of 4 mean((g - g^)^2) over N D, g the `contrastive_gradients` of the student, g^ of the teacher: f32[].

    student: its embeddings projected where their own size is another than the teacher's. Its gradient flows through its own
    P, too; none flows to the teacher. Raises ValueError for sizes that differ.

    The official code divides by exp(logit_scale) in place of the temperature: cosines over 100 where times 100 is meant, so
    all its P are nearly uniform and the loss, at its weight of 1e8, teaches next to nothing. Its E' p takes a tensor of
    N x D x N; here nothing exceeds N x N.
    """
    check_same_size(student.image, teacher.image)
    check_same_size(student.text, teacher.text)
    targets = contrastive_gradients(jax.lax.stop_gradient(teacher), batch=batch)
    both = zip(contrastive_gradients(student, batch=batch), targets, strict=True)
    return sum(
        (mean(jnp.square(own - target).mean(axis=1), batch.axes) for own, target in both), jnp.zeros((), jnp.float32)
    )


def contrastive_gradients(
    pairs: Pairs, *, batch: GlobalBatch = HERE
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """f32[n, D] x4, this device's rows of CE(s x y')'s gradients in x and y, then CE(s y x')'s in y and x.

    Half their sum in x is that of `info_nce`, and so in y.
    """
    to_texts, to_images = pair_logits(pairs, batch=batch), pair_logits(swapped(pairs), batch=batch)
    return *_one_way(pairs, to_texts, to_images, batch), *_one_way(swapped(pairs), to_images, to_texts, batch)


def _one_way(
    pairs: Pairs, to_texts: jax.Array, to_images: jax.Array, batch: GlobalBatch
) -> tuple[jax.Array, jax.Array]:
    """dL/dp and dL/dk for images as p and texts as k, of both ways' logits f32[n, N]: f32[n, D] x2.

    Rows of E' need no sum over devices: they are columns of P, known from this device's logits the other way round and
    all devices' normalisers, one number a row.
    """
    normaliser = jax.nn.logsumexp(to_texts, axis=1)
    match = is_own(to_texts, batch.axes).astype(jnp.float32)

    def pull(logits: jax.Array, normaliser: jax.Array, keys: jax.Array) -> jax.Array:
        surplus = jnp.exp(logits - normaliser) - match
        everyones = gather(keys.astype(jnp.float32), batch.axes)
        return pairs.scale / logits.shape[1] * jnp.matmul(surplus, everyones, precision="highest")

    of_images = pull(to_texts, normaliser[:, None], pairs.text)
    return of_images, pull(to_images, gather(normaliser, batch.axes)[None], pairs.image)
