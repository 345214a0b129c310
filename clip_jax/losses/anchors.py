"""The student's embeddings as anchors among the teacher's of the other modality. Yang et al. 2024 (CLIP-KD).

In both: image, text are this device's rows of the student's unit-norm f32[N@axes, D], projected where its own size is
another; teacher_image, teacher_text those of the teacher, f32[N@axes, D]. learned_scale: f32[], the factor k on cosines,
learned with the student; the official code takes its logarithm for the factor: 2.66 where 14.3 is meant. axes: names of the
mesh axes that cut the batch, inside `jax.shard_map`; () on one device. No gradient flows to the teacher. Both raise
ValueError for sizes that differ.
"""

import jax

from clip_jax.losses.collect import Axes, mean
from clip_jax.losses.logits import cross_entropy, divergence, logits_of, own_columns
from clip_jax.losses.sizes import check_sizes


def icl(
    image: jax.Array,
    text: jax.Array,
    learned_scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    *,
    axes: Axes = (),
) -> jax.Array:
    """1/2 [CE(k x y^') + CE(k y x^')], the mean over all N anchors: f32[]. Interactive contrastive learning."""
    check_sizes(image, teacher_text)
    check_sizes(text, teacher_image)
    teacher_image, teacher_text = jax.lax.stop_gradient((teacher_image, teacher_text))
    own = own_columns(image.shape[0], axes)
    from_image = cross_entropy(logits_of(image, teacher_text, learned_scale, axes=axes), own)
    from_text = cross_entropy(logits_of(text, teacher_image, learned_scale, axes=axes), own)
    return mean((from_image + from_text) / 2, axes)


def cross_kd(
    image: jax.Array,
    text: jax.Array,
    learned_scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    teacher_scale: jax.Array,
    *,
    axes: Axes = (),
) -> jax.Array:
    """1/2 [KL(softmax(s^ x^ y^') // softmax(k x y^')) + KL(softmax(s^ y^ x^') // softmax(k y x^'))], mean over rows: f32[].

    teacher_scale: f32[], s^. In the official code only, with weight 0: each anchor ranks the teacher's embeddings as the
    teacher does.
    """
    check_sizes(image, teacher_text)
    check_sizes(text, teacher_image)
    teacher_image, teacher_text, teacher_scale = jax.lax.stop_gradient((teacher_image, teacher_text, teacher_scale))
    from_image = divergence(
        logits_of(teacher_image, teacher_text, teacher_scale, axes=axes),
        logits_of(image, teacher_text, learned_scale, axes=axes),
    )
    from_text = divergence(
        logits_of(teacher_text, teacher_image, teacher_scale, axes=axes),
        logits_of(text, teacher_image, learned_scale, axes=axes),
    )
    return mean((from_image + from_text) / 2, axes)
