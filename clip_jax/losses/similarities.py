"""The teacher's N x N similarities as the student's targets: of any embedding size, since only cosines within a model meet.

In all: image, text are this device's rows of the student's unit-norm f32[N@axes, E], teacher_image, teacher_text those of the
teacher's f32[N@axes, D]; scale, teacher_scale f32[] are the factors s and s^ on their cosines. axes: names of the mesh axes
that cut the batch, inside `jax.shard_map`; () on one device. No gradient flows to the teacher.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from clip_jax.losses.collect import Axes, mean
from clip_jax.losses.logits import divergence, logits_of, soft_cross_entropy

Teacher = tuple[jax.Array, jax.Array, jax.Array, float]  # image, text, scale, weight


def crd(
    image: jax.Array,
    text: jax.Array,
    scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    teacher_scale: jax.Array,
    *,
    axes: Axes = (),
) -> jax.Array:
    """1/2 [KL(softmax(s^ x^ y^') // softmax(s x y')) + the same of texts over images], the mean over rows: f32[].

    Contrastive relational distillation at temperature 1, each model by its own scale. Yang et al. 2024 (CLIP-KD).
    """
    teacher_image, teacher_text, teacher_scale = jax.lax.stop_gradient((teacher_image, teacher_text, teacher_scale))
    from_image = divergence(
        logits_of(teacher_image, teacher_text, teacher_scale, axes=axes), logits_of(image, text, scale, axes=axes)
    )
    from_text = divergence(
        logits_of(teacher_text, teacher_image, teacher_scale, axes=axes), logits_of(text, image, scale, axes=axes)
    )
    return mean((from_image + from_text) / 2, axes)


def reinforcement(
    image: jax.Array, text: jax.Array, scale: jax.Array, teachers: Sequence[Teacher], *, axes: Axes = ()
) -> jax.Array:
    """1/2 [CE(Q, s x y') + CE(Q', s y x')] against the mean Q of all teachers' softmaxes, the mean over rows: f32[].

    teachers: (image f32[N@axes, D], text f32[N@axes, D], scale f32[], weight) each, of their own D; Q = sum_k w_k
    softmax(s_k x^_k y^_k') with the weights made to sum to 1, and Q' that of texts over images. Vasu et al. 2024
    (MobileCLIP); with a scale for each teacher, Faghri et al. 2025 (MobileCLIP2). The softmaxes are averaged, not the
    logits. Raises ValueError without teachers, for negative weights and for weights that sum to zero.
    """
    weights = [weight for *_, weight in teachers]
    if not all(weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise ValueError(f"weights of teachers {weights}: give one or more, none negative, not all zero")
    over_texts, over_images = jnp.float32(0), jnp.float32(0)
    for x, y, factor, weight in teachers:
        x, y, factor = jax.lax.stop_gradient((x, y, factor))
        share = weight / sum(weights)
        over_texts += share * jax.nn.softmax(logits_of(x, y, factor, axes=axes), axis=1)
        over_images += share * jax.nn.softmax(logits_of(y, x, factor, axes=axes), axis=1)
    from_image = soft_cross_entropy(over_texts, logits_of(image, text, scale, axes=axes))
    from_text = soft_cross_entropy(over_images, logits_of(text, image, scale, axes=axes))
    return mean((from_image + from_text) / 2, axes)


def affinity(
    image: jax.Array,
    text: jax.Array,
    scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    teacher_scale: jax.Array,
    *,
    axes: Axes = (),
) -> jax.Array:
    """1/2 [CE(softmax(s^ x^ y^'), s x y') + the same of texts over images], the mean over rows: f32[].

    Affinity mimicking: `crd` plus the entropy of the targets, so the same gradient; `reinforcement` by one teacher. Wu et
    al. 2023 (TinyCLIP), whose code pins both scales at 50.
    """
    return reinforcement(image, text, scale, [(teacher_image, teacher_text, teacher_scale, 1.0)], axes=axes)


def sigmoid_distillation(
    image: jax.Array,
    text: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    teacher_scale: jax.Array,
    teacher_bias: jax.Array,
    *,
    axes: Axes = (),
) -> jax.Array:
    """-1/N sum_ij [q_ij log sigmoid(l_ij) + (1 - q_ij) log sigmoid(-l_ij)], l = s x y' + b, q = sigmoid(s^ x^ y^' + b^): f32[].

    bias, teacher_bias: f32[], b and b^. Least where l is the teacher's logits. The published form puts 2q - 1 in
    place of the sign z inside log sigmoid(z l), which teaches nothing where q = 1/2: this is the cross-entropy it means.
    """
    teacher_image, teacher_text, teacher_scale, teacher_bias = jax.lax.stop_gradient(
        (teacher_image, teacher_text, teacher_scale, teacher_bias)
    )
    target = jax.nn.sigmoid(logits_of(teacher_image, teacher_text, teacher_scale, axes=axes) + teacher_bias)
    logits = logits_of(image, text, scale, axes=axes) + bias
    per_pair = target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits)
    return mean(-per_pair.sum(axis=1), axes)
