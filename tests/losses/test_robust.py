"""DRRho-CLIP against float64, at the temperature of 0.01 whose terms no f32 holds, and against the official gradient."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.losses import robust
from tests.losses.checks import (
    D,
    N,
    check_equal,
    check_finite,
    check_no_gradient,
    check_permutation,
    check_slope,
    check_value_and_gradient,
    flat,
    loss_and_grads,
    same_captions,
    unit_rows,
)

ROWS = (0, 1, 2, 3)
T, EPS = 0.01, 1e-4
drrho, warm = flat(robust.drrho, 2, 2, temperature=T), flat(robust.drrho, 2, 2, temperature=0.3, eps=0.1)


def arguments(seed: int, count: int = N) -> list[np.ndarray]:
    return [unit_rows(seed, count), unit_rows(seed + 1, count), *(unit_rows(seed + i, count, D) for i in (2, 3))]


def margins(s: np.ndarray, r: np.ndarray, t: float) -> np.ndarray:
    """l_ij, with rows as anchors."""
    return ((s - np.diag(s)[:, None]) - (r - np.diag(r)[:, None])) / t


def reference(image, text, teacher_image, teacher_text, t: float = T, eps: float = EPS) -> float:
    s, r, total = image @ text.T, teacher_image @ teacher_text.T, 0.0
    for ours, theirs in ((s, r), (s.T, r.T)):
        for i, row in enumerate(margins(ours, theirs, t)):  # exp(400) fits float64
            terms = np.exp(np.delete(row, i))
            total += t * math.log(eps + (terms.mean() if len(terms) else 0))
    return total / len(image)


def test_equals_the_reference():
    """f32 cosines divided by 0.01 are exact to 1e-5, and so are the weights of a gradient."""
    check_value_and_gradient(drrho, reference, arguments(0), rows=ROWS, differentiable=(0, 1), grad_error=2e-4)
    check_value_and_gradient(
        warm, lambda *args: reference(*args, 0.3, 0.1), arguments(4), rows=ROWS, differentiable=(0, 1)
    )


def test_no_gradient_to_the_reference_model():
    check_no_gradient(drrho, arguments(0), (2, 3), rows=ROWS)


def test_gradient_of_the_official_code_is_ours_but_for_a_factor_on_rows():
    """The official surrogate: t sum_{j != i} l_ij exp(l_ij - u_i) / (N - 1), u_i = log(eps + S / N) held fixed."""
    image, text, teacher_image, teacher_text = arguments(1)
    s, r = (image.astype(np.float64) @ text.T), (teacher_image.astype(np.float64) @ teacher_text.T)
    official, factors = [], []
    for ours, theirs in ((s, r), (s.T, r.T)):
        terms = np.exp(margins(ours, theirs, T)) * (1 - np.eye(N))
        total = terms.sum(axis=1, keepdims=True)
        official.append(terms / (EPS + total / N) / (N - 1))
        factors.append((EPS + total / (N - 1)) / (EPS + total / N))
    assert all(factor.min() >= 1 and factor.max() <= N / (N - 1) for factor in factors)
    official = [pull / factor / N for pull, factor in zip(official, factors, strict=True)]  # of l; t cancels
    by_cosine = [pull - np.diag(pull.sum(axis=1)) for pull in official]
    pull = by_cosine[0] + by_cosine[1].T
    grads = loss_and_grads(drrho, ROWS)(*arguments(1))[1]
    for found, wanted in ((grads[0], pull @ text), (grads[1], pull.T @ image)):
        np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max())


def test_gradient_by_finite_differences_of_our_own():
    check_slope(warm, arguments(2), rows=ROWS, differentiable=(0, 1))


@pytest.mark.parametrize("mesh", [(0, 0), (8, 1)], ids=str)
def test_the_worst_student_and_the_best_stay_finite(mesh):
    """Terms of exp(400), which f32 does not hold, and of exp(-400)."""
    right = np.repeat(np.eye(8, dtype=np.float32), 2, axis=0) * np.tile(np.array([1, -1], np.float32), 8)[:, None]
    wrong = -right
    value, grads = loss_and_grads(drrho, ROWS, mesh)(right, wrong, right, right)
    assert value == pytest.approx(2 * (4 - T * math.log(N - 1)), rel=1e-5)  # one of the others has l = 4 / 0.01
    assert all(np.isfinite(grad).all() for grad in grads)
    assert np.abs(grads[0]).max() > 0.01
    value, grads = loss_and_grads(drrho, ROWS, mesh)(right, right, right, wrong)
    assert value == pytest.approx(2 * T * math.log(EPS), rel=1e-5)
    assert all(np.abs(grad).max() < 1e-6 for grad in grads)


def test_a_student_that_is_the_reference():
    image, text = unit_rows(3), unit_rows(4)
    found = loss_and_grads(drrho, ROWS, (8, 1))(image, text, image, text)
    assert found[0] == pytest.approx(2 * T * math.log1p(EPS), abs=1e-6)
    assert np.abs(found[1][0]).max() > 1e-3  # it goes on learning: DRRho is no imitation


def test_one_pair_is_a_constant():
    found = loss_and_grads(drrho, ROWS)(*arguments(5, 1))
    check_equal(found, 2 * T * math.log(EPS), [np.zeros((1, size)) for size in (8, 8, D, D)])


def test_identical_captions():
    args = arguments(6)
    same_captions(args, (1, 3))
    check_value_and_gradient(drrho, reference, args, rows=ROWS, differentiable=(0, 1), grad_error=2e-4)
    check_finite(drrho, [np.repeat(arg[:1], N, axis=0) for arg in args], rows=ROWS)


def test_bf16_embeddings_are_multiplied_in_f32():
    image, text, *teacher = (jnp.asarray(arg, jnp.bfloat16) for arg in arguments(7))
    value = loss_and_grads(drrho, ROWS)(image, text, *teacher)[0]
    assert value.dtype == jnp.float32
    exact = [np.asarray(arg, np.float32).astype(np.float64) for arg in (image, text, *teacher)]
    assert value == pytest.approx(reference(*exact), rel=1e-5)


def test_permutation():
    check_permutation(warm, arguments, rows=ROWS)
