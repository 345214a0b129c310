"""InfoNCE: the value and the gradient of the dense float64 reference, on one device and on eight."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.losses.contrastive import info_nce
from clip_jax.sharding import BATCH, MeshConfig, make_mesh
from tests.models import reference

N, E = 16, 8
SCALE = np.float32(1 / 0.07)


def unit_rows(seed: int, count: int = N) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((count, E))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def loss_and_grads(data: int, fsdp: int):
    """The jitted loss with its gradients in image, text and scale; (0, 0) without a mesh."""
    if not data:
        return jax.jit(jax.value_and_grad(info_nce, argnums=(0, 1, 2)))
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp), jax.devices()[: data * fsdp])
    rows, whole = jax.P(BATCH), jax.P()
    loss = functools.partial(info_nce, axes=BATCH)
    sharded = jax.shard_map(loss, mesh=mesh, in_specs=(rows, rows, whole), out_specs=whole)
    return jax.jit(jax.value_and_grad(sharded, argnums=(0, 1, 2)))


def assert_equals_reference(found, image, text, scale, *, loss_error=1e-6, grad_error=1e-5):
    loss, grads = reference.info_nce(image, text, float(scale))
    np.testing.assert_allclose(found[0], loss, rtol=loss_error, atol=loss_error)
    for ours, theirs in zip(found[1], grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=grad_error, atol=grad_error * np.abs(theirs).max())


@pytest.mark.parametrize("mesh", [(0, 0), (1, 1), (8, 1), (1, 8), (4, 2)], ids=str)
def test_equals_the_dense_reference(mesh):
    image, text = unit_rows(0), unit_rows(1)
    assert_equals_reference(loss_and_grads(*mesh)(image, text, SCALE), image, text, SCALE)


@pytest.mark.parametrize("mesh", [(0, 0), (8, 1)], ids=str)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 100.0, 1e4])
def test_temperatures(scale, mesh):
    image, text = unit_rows(2), unit_rows(3)
    found = loss_and_grads(*mesh)(image, text, np.float32(scale))
    assert_equals_reference(found, image, text, np.float32(scale), grad_error=1e-4)  # f32 logits near 1e4 end at 1e-3
    if scale == 1e-6:
        assert found[0] == pytest.approx(math.log(N), abs=1e-5)


def test_matched_pairs_at_a_huge_scale_cost_nothing():
    image = np.eye(E, dtype=np.float32)
    loss, grads = loss_and_grads(0, 0)(image, image, np.float32(1e4))
    assert loss == 0
    assert all((np.asarray(grad) == 0).all() for grad in grads)


def test_one_pair_costs_nothing():
    loss, grads = loss_and_grads(0, 0)(unit_rows(0, 1), unit_rows(1, 1), SCALE)
    assert loss == pytest.approx(0, abs=1e-6)
    assert all(np.abs(grad).max() < 1e-5 for grad in grads)


def test_identical_captions_share_the_blame():
    image, text = unit_rows(4), unit_rows(5)
    text[1:4] = text[0]
    found = loss_and_grads(8, 1)(image, text, SCALE)
    assert_equals_reference(found, image, text, SCALE)
    text[:] = text[0]
    image[:] = image[0]
    assert loss_and_grads(8, 1)(image, text, SCALE)[0] == pytest.approx(math.log(N), rel=1e-6)


def test_bf16_embeddings_lose_nothing_more():
    image, text = (jnp.asarray(unit_rows(seed), jnp.bfloat16) for seed in (6, 7))
    loss, grads = loss_and_grads(8, 1)(image, text, SCALE)
    assert loss.dtype == jnp.float32
    wanted, wanted_grads = reference.info_nce(np.asarray(image, np.float32), np.asarray(text, np.float32), float(SCALE))
    assert loss == pytest.approx(wanted, rel=1e-6)
    for ours, theirs in zip(grads[:2], wanted_grads[:2], strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float32), theirs, atol=2**-7 * np.abs(theirs).max())


def test_gradient_by_finite_differences():
    rng = np.random.default_rng(8)
    image, text = unit_rows(8), unit_rows(9)
    _, grads = loss_and_grads(0, 0)(image, text, SCALE)
    toward = [rng.standard_normal((N, E)), rng.standard_normal((N, E)), np.float64(rng.standard_normal())]

    def loss_at(step: float) -> float:
        moved = (np.float32(x + step * t) for x, t in zip((image, text, SCALE), toward, strict=True))
        return float(loss_and_grads(0, 0)(*moved)[0])

    slope = sum(float((np.asarray(g, np.float64) * t).sum()) for g, t in zip(grads, toward, strict=True))
    assert (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2 == pytest.approx(slope, rel=2e-3)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(N)), seed=st.integers(0, 1000))
def test_a_joint_permutation_of_the_pairs_changes_nothing(order, seed):
    image, text = unit_rows(seed), unit_rows(seed + 1)
    loss, grads = loss_and_grads(8, 1)(image, text, SCALE)
    moved_loss, moved_grads = loss_and_grads(8, 1)(image[order], text[order], SCALE)
    assert float(moved_loss) == pytest.approx(float(loss), rel=1e-5)
    for grad, moved in zip(grads[:2], moved_grads[:2], strict=True):
        np.testing.assert_allclose(np.asarray(grad)[order], moved, atol=1e-5)
