"""DARK's two parts against float64, and their sum against the soft cross-entropy that they are parts of."""

import numpy as np
import pytest

from clip_jax.losses.dark import dark_match, dark_rest
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

SCALE, TEACHER_SCALE = np.float32(1 / 0.07), np.float32(40)
match, rest = flat(dark_match, 3, 3, temperature=5.0), flat(dark_rest, 3, 3, temperature=5.0)
sharp_match = flat(dark_match, 3, 3, temperature=1.0)
BOTH = pytest.mark.parametrize("loss", [match, rest], ids=["dark_match", "dark_rest"])


def arguments(seed: int, count: int = N) -> list:
    image, text = unit_rows(seed, count), unit_rows(seed + 1, count)
    return [image, text, SCALE, unit_rows(seed + 2, count, D), unit_rows(seed + 3, count, D), TEACHER_SCALE]


def terms(image, text, scale, teacher_image, teacher_text, teacher_scale, temperature: float = 5) -> np.ndarray:
    """-p_ij log q_ij: f64[N, N]."""
    p = np.exp(log_softmax(teacher_scale * teacher_image @ teacher_text.T / temperature))
    return -p * log_softmax(scale * image @ text.T)


def match_reference(*args, **options) -> float:
    return float(np.trace(terms(*args, **options))) / len(args[0])


def rest_reference(*args) -> float:
    found = terms(*args)
    return float(found.sum() - np.trace(found)) / len(found)


REFERENCES = {match: match_reference, rest: rest_reference}


@BOTH
def test_equals_the_reference(loss):
    check_value_and_gradient(loss, REFERENCES[loss], arguments(0), rows=RELATED, differentiable=(0, 1, 2))


def test_temperature_is_of_the_teacher_alone():
    args = [np.asarray(arg, np.float64) for arg in arguments(1)]
    wanted = match_reference(*args, temperature=1.0)
    assert loss_and_grads(sharp_match, RELATED)(*arguments(1))[0] == pytest.approx(wanted, rel=1e-5)
    assert abs(wanted - match_reference(*args)) > 0.1


@BOTH
def test_no_gradient_to_the_teacher(loss):
    check_no_gradient(loss, arguments(2), (3, 4, 5), rows=RELATED)


def test_both_together_are_the_soft_cross_entropy():
    args = arguments(3)
    whole = terms(*(np.asarray(arg, np.float64) for arg in args)).sum() / N
    found = [float(loss_and_grads(loss, RELATED, (8, 1))(*args)[0]) for loss in (match, rest)]
    assert sum(found) == pytest.approx(whole, rel=1e-6)
    assert min(found) > 0


@BOTH
@pytest.mark.parametrize(("scale", "teacher_scale"), [(1e-6, 300.0), (100.0, 1e-6), (1e4, 100.0)])
def test_scales(loss, scale, teacher_scale):
    check_scales(loss, REFERENCES[loss], arguments(4), scale, teacher_scale)


@BOTH
def test_extremes_stay_finite(loss):
    args = arguments(5)
    args[2] = args[5] = np.float32(1e6)
    check_finite(loss, args, rows=RELATED, meshes=((0, 0), (8, 1)))


def test_one_pair_costs_nothing():
    for loss in (match, rest):
        check_nothing(loss, arguments(6, 1), rows=RELATED, meshes=((0, 0),))


@BOTH
def test_identical_captions(loss):
    args = arguments(7)
    same_captions(args, (1, 4))
    check_value_and_gradient(loss, REFERENCES[loss], args, rows=RELATED, differentiable=(0, 1, 2))
    same = [np.repeat(arg[:1], N, axis=0) if number in RELATED else arg for number, arg in enumerate(args)]
    wanted = np.log(N) / N * (1 if loss is match else N - 1)
    check_equal(loss_and_grads(loss, RELATED, (8, 1))(*same), wanted, [None] * 6)


@BOTH
def test_permutation(loss):
    check_permutation(loss, arguments, rows=RELATED)
