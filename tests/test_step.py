"""The training step: what it reports, and that a step which is not finite leaves everything but the counters alone."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax import sharding
from clip_jax.optim import learning_rate
from clip_jax.state import TrainState
from tests.conftest import random_batch
from tests.models import reference
from tests.models.test_towers import normalized


@pytest.fixture(scope="module")
def take(small_plan, small_step):
    """One step, from host arrays to host arrays."""

    def take(state: Any, batch: dict[str, np.ndarray]) -> tuple[TrainState, dict[str, float]]:
        placed = jax.device_put(state, small_plan.shardings), sharding.to_global(batch, small_plan.mesh)
        with jax.transfer_guard("disallow"):
            after, metrics = small_step(*placed)
        assert all(value.dtype == jnp.float32 and value.shape == () for value in metrics.values())
        return jax.device_get(after), {name: float(value) for name, value in metrics.items()}

    return take


def with_leaf(state: Any, tower: str, name: str, value: float) -> Any:
    params = state.params | {
        tower: state.params[tower] | {name: jax.tree.map(lambda leaf: leaf * value, state.params[tower][name])}
    }
    return dataclasses.replace(state, params=params)


def assert_same_bits(found: Any, wanted: Any):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_metrics(take, small_start, small, small_batch):
    state, metrics = take(small_start, small_batch)
    image = reference.image_embeddings(small, small_start.params, normalized(small, small_batch["image"]))
    text = reference.text_embeddings(small, small_start.params, small_batch["text"])
    loss, (_, _, by_scale) = reference.info_nce(image, text, 1 / 0.07)
    assert metrics["loss"] == metrics["info_nce"] == pytest.approx(loss, rel=1e-5)
    assert metrics["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-6)
    assert metrics["lr"] == pytest.approx(1e-2 / 4)
    assert metrics["grad_norm"] > abs(by_scale) / 0.07  # of which the temperature's gradient is one part
    assert metrics["skipped"] == metrics["skipped_in_row"] == metrics["replaced"] == 0
    assert set(metrics) == {
        *("loss", "info_nce", "logit_scale", "grad_norm", "lr", "skipped", "skipped_in_row", "replaced")
    }
    assert state.step == 1
    moved = [
        a.tobytes() != b.tobytes()
        for a, b in zip(*map(jax.tree.leaves, (state.params, small_start.params)), strict=True)
    ]
    assert all(moved)


def test_the_average_follows_the_parameters(take, small_start, small_batch):
    first, _ = take(small_start, small_batch)
    second, _ = take(first, small_batch)
    leaves = (jax.tree.leaves(tree) for tree in (small_start.params, first.params, second.params, second.ema))
    for before, one, two, average in zip(*leaves, strict=True):
        expected = before + (1 - 1 / 10) * (one - before)  # decay 1/10, then 2/11
        np.testing.assert_allclose(average, expected + (1 - 2 / 11) * (two - expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("tower", ["visual", "text"])
def test_a_step_that_is_not_finite_changes_only_counters(take, small_plan, small_start, small_batch, tower, poison):
    warm, _ = take(small_start, small_batch)
    bad = with_leaf(warm, tower, "proj", poison)
    found, metrics = take(bad, small_batch)
    assert not math.isfinite(metrics["loss"])
    for name in ("params", "opt_state", "ema"):
        assert_same_bits(getattr(found, name), getattr(bad, name))
    assert (found.step, found.skipped, found.skipped_in_row) == (2, 1, 1)
    found, metrics = take(found, small_batch)
    assert (found.step, found.skipped, found.skipped_in_row) == (3, 2, 2)
    assert (metrics["skipped"], metrics["skipped_in_row"]) == (2, 2)
    rate = learning_rate(small_plan.config.optim, small_plan.config.steps)
    assert metrics["lr"] == pytest.approx(float(rate(1)))  # the schedule waits for the skipped steps

    healed = dataclasses.replace(found, params=warm.params)
    good, metrics = take(healed, small_batch)
    assert (good.step, good.skipped, good.skipped_in_row) == (4, 2, 0)
    straight, _ = take(warm, small_batch)
    assert_same_bits(good.params, straight.params)  # as if the skipped steps had not been
    assert_same_bits(good.opt_state, straight.opt_state)


@pytest.mark.parametrize(("given", "kept"), [(10.0, math.log(100)), (-3.0, 0.0)])
def test_logit_scale_is_clamped(take, small_start, small_batch, given, kept):
    state = dataclasses.replace(small_start, params=small_start.params | {"logit_scale": np.float32(given)})
    found, metrics = take(state, small_batch)
    assert metrics["logit_scale"] == pytest.approx(math.exp(given), rel=1e-5)  # as the loss saw it
    assert found.params["logit_scale"] == np.float32(kept)


def test_replaced_samples_add_up(take, small_start, small):
    batch = random_batch(small, 16, seed=1)
    batch["replaced"][[0, 7, 15]] = [1, 2, 4]
    state, metrics = take(small_start, batch)
    assert state.replaced == metrics["replaced"] == 7
    state, metrics = take(state, batch)
    assert state.replaced == metrics["replaced"] == 14


def test_the_same_seed_gives_the_same_bits(take, small_start, small_batch):
    assert_same_bits(take(small_start, small_batch)[0], take(small_start, small_batch)[0])
