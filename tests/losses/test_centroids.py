"""CLIP-Embed-KD's losses against float64, with labels missing on some devices and on all."""

import numpy as np
import pytest

from clip_jax.losses.centroids import centroid, classification, full_teacher
from tests.losses.checks import (
    D,
    E,
    N,
    check_finite,
    check_no_gradient,
    check_nothing,
    check_permutation,
    check_value_and_gradient,
    loss_and_grads,
    step_at,
    unit_rows,
)
from tests.losses.distillation_references import cross_entropy, log_softmax

C = 5  # classes
LABEL = np.array([0, 4, -1, 3, -1, -1, 2, 2, 1, 0, -1, 4, 3, 3, 1, 0], np.int32)  # the third device of eight has none
SCALE = np.float32(10)
NONE = np.full(N, -1, np.int32)


def classification_reference(logits, label) -> float:
    kept = [-row[number] for row, number in zip(log_softmax(logits), label, strict=True) if number >= 0]
    return float(np.mean(kept)) if kept else 0.0


def centroid_reference(embedding, label, centroids, scale) -> float:
    return classification_reference(scale * embedding @ centroids.T, label)


def teacher_reference(image, teacher_image, scale) -> float:
    return cross_entropy(scale * image @ teacher_image.T)


def logits(seed: int) -> np.ndarray:
    return 3 * np.random.default_rng(seed).standard_normal((N, C)).astype(np.float32)


def test_centroid_equals_the_reference():
    args = [unit_rows(0), LABEL, unit_rows(1, C), SCALE]
    check_value_and_gradient(centroid, centroid_reference, args, rows=(0, 1))


def test_classification_equals_the_reference():
    check_value_and_gradient(classification, classification_reference, [logits(0), LABEL], rows=(0, 1))


def test_full_teacher_equals_the_reference():
    args = [unit_rows(0), unit_rows(1), SCALE]
    check_value_and_gradient(full_teacher, teacher_reference, args, rows=(0, 1), differentiable=(0, 2))
    check_no_gradient(full_teacher, args, (1,), rows=(0, 1))


def test_unlabelled_rows_count_for_nothing():
    embedding, centroids = unit_rows(2), unit_rows(3, C)
    labelled = LABEL >= 0
    value, grads = loss_and_grads(centroid, (0, 1), (8, 1))(embedding, LABEL, centroids, SCALE)
    alone = loss_and_grads(centroid, (0, 1))(embedding[labelled], LABEL[labelled], centroids, SCALE)[0]
    assert value == pytest.approx(float(alone), rel=1e-6)
    assert (np.asarray(grads[0])[~labelled] == 0).all()
    assert (np.asarray(grads[0])[labelled] != 0).any(axis=1).all()


def test_a_batch_without_labels_costs_nothing():
    check_nothing(centroid, [unit_rows(4), NONE, unit_rows(5, C), SCALE], rows=(0, 1), value=0, grad=0)
    check_nothing(classification, [logits(1), NONE], rows=(0, 1), value=0, grad=0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4, 1e7])
def test_scales(scale):
    args = [unit_rows(6), LABEL, unit_rows(7, C), np.float32(scale)]
    check_finite(centroid, args, rows=(0, 1), meshes=((0, 0), (8, 1)))
    check_finite(full_teacher, [args[0], unit_rows(8), args[3]], rows=(0, 1))
    if scale == 1e-6:
        assert loss_and_grads(centroid, (0, 1))(*args)[0] == pytest.approx(np.log(C), rel=1e-5)
    if scale < 1e7:
        exact = {"differentiable": (0, 2), "grad_error": 1e-4, "step": step_at(scale)}
        check_value_and_gradient(centroid, centroid_reference, args, rows=(0, 1), **exact)


def test_a_right_student_at_a_huge_scale_pays_nothing():
    centroids = np.eye(E, dtype=np.float32)
    label = np.arange(N, dtype=np.int32) % E
    check_nothing(centroid, [centroids[label], label, centroids, np.float32(1e4)], rows=(0, 1), value=0, grad=0)


def test_one_row():
    check_value_and_gradient(
        centroid,
        centroid_reference,
        [unit_rows(9, 1), np.array([3], np.int32), unit_rows(10, C), SCALE],
        rows=(0, 1),
        meshes=((0, 0),),
    )
    check_nothing(full_teacher, [unit_rows(9, 1), unit_rows(10, 1), SCALE], rows=(0, 1), meshes=((0, 0),))


def test_identical_images_share_the_blame():
    same = np.repeat(unit_rows(11, 1), N, axis=0)
    assert loss_and_grads(full_teacher, (0, 1), (8, 1))(unit_rows(12), same, SCALE)[0] == pytest.approx(np.log(N))


def test_sizes_that_differ_ask_for_a_projection():
    with pytest.raises(ValueError, match=r"student have size 8, of the teacher 12: project the .* to 12"):
        full_teacher(unit_rows(0), unit_rows(1, size=D), SCALE)


def test_permutation():
    check_permutation(centroid, lambda seed: [unit_rows(seed), LABEL, unit_rows(seed + 1, C), SCALE], rows=(0, 1))
    check_permutation(classification, lambda seed: [logits(seed), LABEL], rows=(0, 1))
    check_permutation(full_teacher, lambda seed: [unit_rows(seed), unit_rows(seed + 1), SCALE], rows=(0, 1))
