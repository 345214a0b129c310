"""The sigmoid pair loss: the value and the gradient of the float64 reference, on one device and on eight."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.losses.sigmoid import sigmoid_pairs
from clip_jax.objective_check import check_objective
from clip_jax.objectives import ObjectiveConfig
from tests.losses.checks import (
    E,
    N,
    check_equal,
    check_finite,
    check_nothing,
    check_permutation,
    check_slope,
    flat,
    loss_and_grads,
    unit_rows,
)
from tests.models import reference

ROWS = (0, 1)
LOSS = flat(sigmoid_pairs, 4)
SCALE, BIAS = np.float32(10), np.float32(-10)  # as SigLIP starts


def loss_on(mesh, image, text, scale, bias):
    return loss_and_grads(LOSS, ROWS, mesh)(image, text, scale, bias)


def check_dense(mesh, image, text, scale, bias, *, grad_error=1e-5):
    found = loss_on(mesh, image, text, scale, bias)
    check_equal(found, *reference.sigmoid_pairs(image, text, float(scale), float(bias)), grad_error=grad_error)
    return found


@pytest.mark.parametrize("mesh", [(0, 0), (1, 1), (8, 1), (1, 8), (4, 2)], ids=str)
def test_equals_the_reference(mesh):
    check_dense(mesh, unit_rows(0), unit_rows(1), SCALE, BIAS)


@pytest.mark.parametrize("mesh", [(0, 0), (8, 1)], ids=str)
@pytest.mark.parametrize(("scale", "bias"), [(1e-6, 0.0), (1.0, 3.0), (117.3, -12.9), (1e4, -1e3), (10.0, 1e4)])
def test_scales_and_biases(scale, bias, mesh):
    given = unit_rows(2), unit_rows(3), np.float32(scale), np.float32(bias)
    found = check_dense(mesh, *given, grad_error=1e-4)  # f32 logits near 1e4 end at 1e-3
    if scale == 1e-6:
        assert found[0] == pytest.approx(N * math.log(2), rel=1e-5)


@pytest.mark.parametrize("bias", [-1e30, 0.0, 1e30])
def test_extreme_logits_stay_finite(bias):
    check_finite(LOSS, (unit_rows(2), unit_rows(3), np.float32(1e30), np.float32(bias)), rows=ROWS)


def test_pairs_told_apart_cost_nothing():
    image = np.eye(E, dtype=np.float32)
    check_nothing(LOSS, (image, image, np.float32(1e4), np.float32(-5e3)), rows=ROWS, value=0, grad=0)


def test_one_pair_is_one_question():
    image, text = unit_rows(0, 1), unit_rows(1, 1)
    found = check_dense((0, 0), image, text, SCALE, BIAS)
    assert found[0] == pytest.approx(math.log1p(math.exp(-(10 * float((image * text).sum()) - 10))), rel=1e-5)


def test_identical_captions_answer_for_each_image():
    image, text = unit_rows(4), unit_rows(5)
    text[1:4] = text[0]
    check_dense((8, 1), image, text, SCALE, BIAS)


def test_bf16_embeddings_lose_nothing_more():
    image, text = (jnp.asarray(unit_rows(seed), jnp.bfloat16) for seed in (6, 7))
    loss, grads = loss_on((8, 1), image, text, SCALE, BIAS)
    assert loss.dtype == jnp.float32
    exact = (np.asarray(image, np.float32), np.asarray(text, np.float32), float(SCALE), float(BIAS))
    wanted, wanted_grads = reference.sigmoid_pairs(*exact)
    assert loss == pytest.approx(wanted, rel=1e-6)
    for ours, theirs in zip(grads, wanted_grads, strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float32), theirs, atol=2**-7 * np.abs(theirs).max())


def test_gradient_by_finite_differences():
    check_slope(LOSS, (unit_rows(8), unit_rows(9), np.float32(3), np.float32(-2)), rows=ROWS)


def test_a_joint_permutation_of_the_pairs_changes_nothing():
    check_permutation(LOSS, lambda seed: (unit_rows(seed), unit_rows(seed + 1), SCALE, BIAS), rows=ROWS)


def test_the_objective_asks_for_a_bias():
    alone, mixed = ObjectiveConfig(weights={"sigmoid": 1.0}), ObjectiveConfig(weights={"info_nce": 1.0, "sigmoid": 0.5})
    for config in (alone, mixed):
        check_objective(config, has_bias=True)
        with pytest.raises(ValueError, match=r"set model.init_logit_bias=-10 and model.init_logit_scale=2.302585"):
            check_objective(config, has_bias=False)
    check_objective(ObjectiveConfig(weights={"info_nce": 1.0, "sigmoid": 0.0}), has_bias=False)
