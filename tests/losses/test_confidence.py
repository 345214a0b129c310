"""CSD: both losses against float64, and what the confidence of a pair does."""

import jax
import numpy as np
import pytest

from clip_jax.losses.confidence import confidence, csd_features, csd_relations
from tests.losses.checks import (
    RELATED,
    D,
    N,
    check_equal,
    check_finite,
    check_no_gradient,
    check_nothing,
    check_permutation,
    check_scales,
    check_value_and_gradient,
    flat,
    loss_and_grads,
    same_captions,
    unit_rows,
)
from tests.losses.distillation_references import log_softmax

DELTA = 1.3  # some of the distances below lie on either side
SCALE, TEACHER_SCALE = np.float32(1 / 0.07), np.float32(6)
FEATURES = (0, 1, 2, 3)  # arguments cut by rows
features, relations, weights = flat(csd_features, 2, 3, delta=DELTA), flat(csd_relations, 3, 3), flat(confidence, 3)


def pairs(seed: int, size: int = 8, count: int = N, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Images and texts of which each text is its image, disturbed."""
    image = unit_rows(seed, count, size)
    text = image + noise * unit_rows(seed + 1, count, size)
    return image, (text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32)


def features_args(seed: int, count: int = N) -> list:
    return [*(unit_rows(seed + i, count) for i in (2, 3)), *pairs(seed, 8, count), TEACHER_SCALE]


def relations_args(seed: int, count: int = N) -> list:
    student = pairs(seed + 2, 8, count, 2.0)
    return [*student, SCALE, *pairs(seed, D, count), TEACHER_SCALE]


def weights_reference(image: np.ndarray, text: np.ndarray, scale: float) -> np.ndarray:
    logits = scale * image @ text.T
    log_c = (np.diag(log_softmax(logits)) + np.diag(log_softmax(logits.T))) / 2
    c = np.exp(log_c - log_c.max())
    return np.minimum(c / c.mean(), 3)


def huber(distance: float) -> float:
    return distance**2 / 2 if distance <= DELTA else DELTA * (distance - DELTA / 2)


def features_reference(image, text, teacher_image, teacher_text, teacher_scale) -> float:
    w = weights_reference(teacher_image, teacher_text, teacher_scale)
    apart = [
        huber(np.linalg.norm(image[i] - teacher_image[i])) + huber(np.linalg.norm(text[i] - teacher_text[i]))
        for i in range(len(w))
    ]
    return float((w * apart).mean())


def relations_reference(image, text, scale, teacher_image, teacher_text, teacher_scale) -> float:
    w = weights_reference(teacher_image, teacher_text, teacher_scale)
    student, teacher = scale * image @ text.T, teacher_scale * teacher_image @ teacher_text.T
    per_row = 0.0
    for p, q in ((teacher, student), (teacher.T, student.T)):
        per_row = per_row + (np.exp(log_softmax(p)) * (log_softmax(p) - log_softmax(q))).sum(axis=1) / 2
    return float((w * per_row).mean())


def test_features_equal_the_reference():
    args = features_args(0)
    distances = np.linalg.norm(args[0] - args[2], axis=1)
    assert distances.min() < DELTA < distances.max()
    check_value_and_gradient(features, features_reference, args, rows=FEATURES, differentiable=(0, 1))


def test_relations_equal_the_reference():
    args = relations_args(0)
    check_value_and_gradient(relations, relations_reference, args, rows=RELATED, differentiable=(0, 1, 2))


@pytest.mark.parametrize(("scale", "teacher_scale"), [(1e-6, 100.0), (100.0, 1e-6), (1e4, 1.0)])
def test_relations_at_other_scales(scale, teacher_scale):
    check_scales(relations, relations_reference, relations_args(4), scale, teacher_scale)


def test_no_gradient_to_the_teacher_or_the_weights():
    check_no_gradient(features, features_args(0), (2, 3, 4), rows=FEATURES)
    check_no_gradient(relations, relations_args(0), (3, 4, 5), rows=RELATED)
    grads = jax.grad(lambda *args: weights(*args).sum(), argnums=(0, 1, 2))(*features_args(0)[2:])
    assert all((np.asarray(grad) == 0).all() for grad in grads)


def test_a_student_that_is_its_teacher_pays_nothing():
    image, text = pairs(6)
    check_nothing(features, [image, text, image, text, SCALE], rows=FEATURES, value=0, grad=0)
    check_nothing(relations, [image, text, SCALE, image, text, SCALE], rows=RELATED)


def test_equal_confidence_is_no_weight():
    teacher = np.eye(N, dtype=np.float32)
    student = unit_rows(0, size=N), unit_rows(1, size=N)
    assert np.asarray(weights(teacher, teacher, TEACHER_SCALE)) == pytest.approx(1, rel=1e-6)
    value = loss_and_grads(features, FEATURES, (8, 1))(*student, teacher, teacher, TEACHER_SCALE)[0]
    apart = [huber(np.linalg.norm(x[i] - teacher[i])) for x in student for i in range(N)]
    assert value == pytest.approx(sum(apart) / N, rel=1e-6)
    value = loss_and_grads(relations, RELATED, (8, 1))(*student, SCALE, teacher, teacher, TEACHER_SCALE)[0]
    p, q = log_softmax(TEACHER_SCALE * teacher.astype(np.float64)), SCALE * student[0].astype(np.float64) @ student[1].T
    unweighted = (np.exp(p) * (2 * p - log_softmax(q) - log_softmax(q.T))).sum() / (2 * N)
    assert value == pytest.approx(unweighted, rel=1e-5)


def test_mismatched_pairs_weigh_less():
    image, text = pairs(8, noise=0.2)
    text[[0, 1]] = text[[1, 0]]
    w = np.asarray(weights(image, text, np.float32(5)))
    np.testing.assert_allclose(w, weights_reference(image.astype(np.float64), text.astype(np.float64), 5.0), rtol=1e-5)
    assert w[:2].max() < 0.5 * w[2:].min()
    assert w.mean() == pytest.approx(1, rel=1e-5)  # none is clipped


def test_no_pair_weighs_more_than_three():
    image, text = pairs(9, noise=0.2)
    text[1:] = np.roll(text[1:], 1, axis=0)
    w = np.asarray(weights(image, text, np.float32(50)))
    assert w[0] == 3
    assert w[1:].max() < 1e-3


def test_a_teacher_that_gives_every_pair_up_still_weighs_them():
    """c underflows in f32, its ratios do not."""
    image = np.eye(N, dtype=np.float32)
    text = np.roll(image, 1, axis=0)
    np.testing.assert_allclose(weights(image, text, np.float32(1e4)), np.ones(N), rtol=1e-3)
    args = [unit_rows(0, size=N), unit_rows(1, size=N), np.float32(1e4), image, text, np.float32(1e4)]
    check_finite(relations, args, rows=RELATED, meshes=((0, 0), (8, 1)))


def test_one_pair():
    args = features_args(10, 1)
    found = loss_and_grads(features, FEATURES)(*args)
    distances = [np.linalg.norm(args[i].astype(np.float64) - args[i + 2]) for i in (0, 1)]
    check_equal(found, sum(map(huber, distances)), [None] * 5)
    check_nothing(relations, relations_args(10, 1), rows=RELATED, meshes=((0, 0),))


def test_identical_captions():
    args = relations_args(11)
    same_captions(args, (1, 4))
    check_value_and_gradient(relations, relations_reference, args, rows=RELATED, differentiable=(0, 1, 2))


@pytest.mark.parametrize("wrong", [2, 3])
def test_sizes_that_differ_ask_for_a_projection(wrong):
    args = features_args(12)
    args[wrong] = unit_rows(0, size=D)
    with pytest.raises(ValueError, match=r"student have size 8, of the teacher 12: project the .* to 12"):
        features(*args)


def test_permutation():
    check_permutation(features, features_args, rows=FEATURES)
    check_permutation(relations, relations_args, rows=RELATED)
