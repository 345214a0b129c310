"""InfoNCE: the value and the gradient of the dense float64 reference, on one device and on eight."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.losses.contrastive import info_nce
from tests.losses.checks import (
    E,
    N,
    check_equal,
    check_nothing,
    check_permutation,
    check_slope,
    flat,
    loss_and_grads,
    unit_rows,
)
from tests.models import reference

ROWS = (0, 1)
LOSS = flat(info_nce, 3)
SCALE = np.float32(1 / 0.07)


def loss_on(mesh, image, text, scale):
    return loss_and_grads(LOSS, ROWS, mesh)(image, text, scale)


def check_dense(mesh, image, text, scale, *, grad_error=1e-5):
    found = loss_on(mesh, image, text, scale)
    check_equal(found, *reference.info_nce(image, text, float(scale)), grad_error=grad_error)
    return found


@pytest.mark.parametrize("mesh", [(0, 0), (1, 1), (8, 1), (1, 8), (4, 2)], ids=str)
def test_equals_the_dense_reference(mesh):
    check_dense(mesh, unit_rows(0), unit_rows(1), SCALE)


@pytest.mark.parametrize("mesh", [(0, 0), (8, 1)], ids=str)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 100.0, 1e4])
def test_temperatures(scale, mesh):
    # f32 logits near 1e4 end at 1e-3
    found = check_dense(mesh, unit_rows(2), unit_rows(3), np.float32(scale), grad_error=1e-4)
    if scale == 1e-6:
        assert found[0] == pytest.approx(math.log(N), abs=1e-5)


def test_matched_pairs_at_a_huge_scale_cost_nothing():
    image = np.eye(E, dtype=np.float32)
    check_nothing(LOSS, (image, image, np.float32(1e4)), rows=ROWS, value=0, grad=0)


def test_one_pair_costs_nothing():
    check_nothing(LOSS, (unit_rows(0, 1), unit_rows(1, 1), SCALE), rows=ROWS, meshes=[(0, 0)])


def test_identical_captions_share_the_blame():
    image, text = unit_rows(4), unit_rows(5)
    text[1:4] = text[0]
    check_dense((8, 1), image, text, SCALE)
    text[:] = text[0]
    image[:] = image[0]
    assert loss_on((8, 1), image, text, SCALE)[0] == pytest.approx(math.log(N), rel=1e-6)


def test_bf16_embeddings_lose_nothing_more():
    image, text = (jnp.asarray(unit_rows(seed), jnp.bfloat16) for seed in (6, 7))
    loss, grads = loss_on((8, 1), image, text, SCALE)
    assert loss.dtype == jnp.float32
    wanted, wanted_grads = reference.info_nce(np.asarray(image, np.float32), np.asarray(text, np.float32), float(SCALE))
    assert loss == pytest.approx(wanted, rel=1e-6)
    for ours, theirs in zip(grads[:2], wanted_grads[:2], strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float32), theirs, atol=2**-7 * np.abs(theirs).max())


def test_gradient_by_finite_differences():
    check_slope(LOSS, (unit_rows(8), unit_rows(9), SCALE), rows=ROWS)


def test_a_joint_permutation_of_the_pairs_changes_nothing():
    check_permutation(LOSS, lambda seed: (unit_rows(seed), unit_rows(seed + 1), SCALE), rows=ROWS)
