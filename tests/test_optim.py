"""Schedules, masks, optimizers, layer-wise rates, freezing and the average, against values by hand and NumPy."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clip_jax import tree
from clip_jax.models.clip import abstract_params
from clip_jax.optim import (
    OptimConfig,
    decay_mask,
    layer_rates,
    learning_rate,
    make_optimizer,
    trained_mask,
    update_ema,
)


def toy_params(layers: int = 3) -> dict[str, Any]:
    """Two towers with a leaf of every kind, as a model names them."""
    rng = np.random.default_rng(0)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    def tower(entry: str) -> dict[str, Any]:
        return {
            entry: array(8, 6),
            "positional_embedding": array(4, 6),
            "blocks": {
                "ln_1": {"scale": array(layers, 6), "bias": array(layers, 6)},
                "mlp": {
                    "fc": {"kernel": array(layers, 6, 10), "bias": array(layers, 10)},
                    "proj": {"kernel": array(layers, 10, 6), "bias": array(layers, 6)},
                },
            },
            "proj": {"kernel": array(6, 5)},
        }

    visual = tower("class_embedding") | {"ln_post": {"scale": array(6)}, "patch_embedding": {"kernel": array(12, 6)}}
    text = tower("token_embedding") | {"ln_final": {"scale": array(6)}}
    return {"visual": visual, "text": text, "logit_scale": array()}


def flat(values: Any) -> dict[str, np.ndarray]:
    return dict(zip(tree.paths(values), map(np.asarray, jax.tree.leaves(values)), strict=True))


def updates_of(config: OptimConfig, params: Any, grads: Any, *, steps: int = 1, total: int = 10) -> list[Any]:
    """Each step's updates for the same gradients."""
    tx = make_optimizer(config, total, params)
    update, state, found = jax.jit(tx.update), tx.init(params), []
    for _ in range(steps):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        found.append(updates)
    return found


CONSTANT = {"schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        # ten steps, two of warm-up; shares of the peak
        ({"schedule": "constant"}, [1 / 2, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear"}, [1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ({"schedule": "linear", "final_share": 0.2}, [0.5, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]),
        ({"schedule": "cosine"}, [1 / 2, 1, *((1 + math.cos(math.pi * i / 8)) / 2 for i in range(8))]),
        (
            {"schedule": "cosine", "final_share": 0.1},
            [1 / 2, 1, *(0.1 + 0.9 * (1 + math.cos(math.pi * i / 8)) / 2 for i in range(8))],
        ),
        ({"schedule": "rsqrt"}, [1 / 2, 1, *((2 / i) ** 0.5 for i in range(3, 11))]),
        ({"schedule": "constant", "cooldown_steps": 4}, [1 / 2, 1, 1, 1, 1, 1, 1, 3 / 4, 2 / 4, 1 / 4]),
        (
            {"schedule": "rsqrt", "cooldown_steps": 2},
            [1 / 2, 1, *((2 / i) ** 0.5 for i in range(3, 10)), (2 / 10) ** 0.5 / 2],
        ),
        ({"schedule": "constant", "warmup_steps": 0}, [1] * 10),
        ({"schedule": "linear", "warmup_steps": 10}, [i / 10 for i in range(1, 11)]),
    ],
    ids=str,
)
def test_schedules_by_hand(config, wanted):
    rate = learning_rate(OptimConfig(lr=3.0, **({"warmup_steps": 2} | config)), 10)
    found = np.array([rate(step) for step in range(10)])
    np.testing.assert_allclose(found, 3 * np.array(wanted), rtol=1e-6, atol=1e-6)
    assert rate(jnp.int32(3)).dtype == jnp.float32


def test_schedule_must_fit_into_the_run():
    learning_rate(OptimConfig(warmup_steps=6, cooldown_steps=4), 10)
    with pytest.raises(ValueError, match=r"warmup_steps 7 . cooldown_steps 4 exceed the 10 steps"):
        learning_rate(OptimConfig(warmup_steps=7, cooldown_steps=4), 10)


@pytest.mark.parametrize(
    ("name", "bad", "good", "allowed"),
    [
        ("lr", (0.0, -1e-3, math.inf), (1e-30, 1e30), "above 0"),
        ("eps", (0.0, -1e-6), (1e-30,), "above 0"),
        ("b1", (1.0, -0.1), (0.0, 0.999), "in [0, 1)"),
        ("b2", (1.0, -0.1), (0.0, 0.999), "in [0, 1)"),
        ("ema_decay", (1.0, -0.1), (0.0, 0.9999), "in [0, 1)"),
        ("weight_decay", (-0.1,), (0.0, 2.0), "at least 0"),
        ("clip_norm", (-1.0,), (0.0, 2.0), "at least 0"),
        ("warmup_steps", (-1,), (0, 5), "at least 0"),
        ("cooldown_steps", (-1,), (0, 5), "at least 0"),
        ("layer_decay", (0.0, 1.1), (0.1, 1.0), "in (0, 1]"),
        ("final_share", (-0.1, 1.1), (0.0, 1.0), "in [0, 1]"),
    ],
)
def test_numbers_that_cannot_work(name, bad, good, allowed):
    for value in good:
        make_optimizer(OptimConfig(**{"warmup_steps": 0, name: value}), 10, toy_params())
    for value in bad if isinstance(bad[0], int) else (*bad, math.nan):
        with pytest.raises(ValueError, match=rf"^optim.{name} is {value}; it must be {re.escape(allowed)}$"):
            make_optimizer(OptimConfig(**{"warmup_steps": 0, name: value}), 10, toy_params())


def test_decay_pulls_on_matrices_and_tokens_only(small):
    decayed = {path for path, pulled in flat(decay_mask(abstract_params(small))).items() if pulled}
    blocks = {f"blocks/{name}/kernel" for name in ("attn/qkv", "attn/out", "mlp/fc", "mlp/proj")}
    assert decayed == {
        "visual/patch_embedding/kernel",
        "visual/proj/kernel",
        "text/token_embedding",
        "text/proj/kernel",
        *(f"{tower}/{name}" for tower in ("visual", "text") for name in blocks),
    }


def test_decay_reaches_the_update():
    params = toy_params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    config = OptimConfig(lr=0.1, schedule="constant", warmup_steps=0, weight_decay=0.5)
    for path, update in flat(updates_of(config, params, zeros)[0]).items():
        pulled = path.endswith(("kernel", "token_embedding"))
        np.testing.assert_allclose(update, -0.1 * 0.5 * pulled * flat(params)[path], rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon"])
def test_every_optimizer_finds_a_minimum(name):
    target = jax.tree.map(lambda leaf: 0.3 * jnp.tanh(leaf), toy_params())
    config = OptimConfig(name=name, lr=0.02, warmup_steps=5, weight_decay=0.0)
    params = jax.tree.map(jnp.zeros_like, target)
    tx = make_optimizer(config, 150, params)

    def loss(params):
        return sum(jnp.square(p - t).mean() for p, t in zip(*map(jax.tree.leaves, (params, target)), strict=True))

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, before = tx.init(params), loss(params)
    for _ in range(150):
        params, state = step(params, state)
    assert loss(params) < 0.01 * before


def test_adamw_equals_numpy():
    params = toy_params()
    config = OptimConfig(lr=0.05, schedule="linear", warmup_steps=2, weight_decay=0.3, b1=0.8, b2=0.9, eps=1e-3)
    tx = make_optimizer(config, 5, params)
    update, state = jax.jit(tx.update), tx.init(params)
    ours, rng = params, np.random.default_rng(1)
    theirs = {path: leaf.astype(np.float64) for path, leaf in flat(params).items()}
    first = {path: np.zeros_like(leaf) for path, leaf in theirs.items()}
    second = {path: np.zeros_like(leaf) for path, leaf in theirs.items()}
    for step, rate in enumerate([0.025, 0.05, 0.05]):
        grads = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), params)
        updates, state = update(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
        for path, grad in flat(grads).items():
            grad = grad.astype(np.float64)
            first[path] = 0.8 * first[path] + 0.2 * grad
            second[path] = 0.9 * second[path] + 0.1 * grad**2
            direction = first[path] / (1 - 0.8 ** (step + 1))
            direction = direction / (np.sqrt(second[path] / (1 - 0.9 ** (step + 1))) + 1e-3)
            decay = 0.3 if path.endswith(("kernel", "token_embedding")) else 0.0
            theirs[path] = theirs[path] - rate * (direction + decay * theirs[path])
    for path, leaf in flat(ours).items():
        np.testing.assert_allclose(leaf, theirs[path], rtol=2e-5, atol=2e-6, err_msg=path)


def test_layer_rates_by_hand():
    params, half = toy_params(), OptimConfig(layer_decay=0.5)
    by_layer = [1 / 8, 1 / 4, 1 / 2]  # the last of three blocks is one step from the output
    for path, factor in flat(layer_rates(half, params)).items():
        if "/blocks/" in path:
            assert factor.shape == (3,) + (1,) * (flat(params)[path].ndim - 1)
            np.testing.assert_array_equal(factor.reshape(-1), by_layer)
        else:
            at_output = path.endswith(("ln_post/scale", "ln_final/scale", "/proj/kernel")) or path == "logit_scale"
            assert factor == (1 if at_output else 1 / 16), path


@pytest.mark.parametrize("freeze", [(), ("text/.*",)], ids=["all", "frozen"])
def test_layer_decay_reaches_the_update(freeze):
    params = toy_params()
    plain, scaled = (
        flat(updates_of(OptimConfig(layer_decay=decay, freeze=freeze, **CONSTANT), params, params)[0])
        for decay in (1.0, 0.5)
    )
    for path, factor in flat(layer_rates(OptimConfig(layer_decay=0.5), params)).items():
        np.testing.assert_allclose(scaled[path], plain[path] * factor, rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon"])
def test_frozen_parameters_stay_and_hold_no_state(name):
    params = toy_params()
    config = OptimConfig(name=name, warmup_steps=0, clip_norm=1.0, layer_decay=0.9, freeze=("visual/.*", "logit_scale"))
    tx = make_optimizer(config, 10, params)
    state = tx.init(params)
    updates, _ = jax.jit(tx.update)(params, state, params)
    after = flat(optax.apply_updates(params, updates))
    for path, leaf in flat(params).items():
        assert (after[path].tobytes() == leaf.tobytes()) == (not path.startswith("text/")), path
    paths = tree.paths(state)
    assert any("text/" in path for path in paths)
    assert not any("visual/" in path or "logit_scale" in path for path in paths)


def test_trained_mask_and_its_errors():
    params = toy_params()
    trained = flat(trained_mask(OptimConfig(freeze=("visual/.*",)), params))
    assert all(mark == (not path.startswith("visual/")) for path, mark in trained.items())
    with pytest.raises(ValueError, match=r"optim.freeze 'vision/.*' matches no parameter; paths look like"):
        trained_mask(OptimConfig(freeze=("vision/.*",)), params)
    with pytest.raises(ValueError, match="freezes every parameter"):
        trained_mask(OptimConfig(freeze=(".*",)), params)


@pytest.mark.parametrize("bound", [0.25, 1e6])
def test_clip_norm_bounds_what_the_moments_see(bound):
    params = toy_params()
    tx = make_optimizer(OptimConfig(clip_norm=bound, b1=0.9, warmup_steps=0), 10, params)
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    moments = [leaf for path, leaf in zip(tree.paths(state), jax.tree.leaves(state), strict=True) if "/mu/" in path]
    seen = math.sqrt(sum(float((np.asarray(leaf, np.float64) ** 2).sum()) for leaf in moments)) / 0.1
    norm = math.sqrt(sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in flat(params).values()))
    assert seen == pytest.approx(min(bound, norm), rel=1e-5)


def test_ema_equals_the_recursion():
    config = OptimConfig(ema_decay=0.5)
    ema = {"w": jnp.zeros((3,), jnp.float32)}
    wanted = np.zeros(3)
    for step in range(20):
        new = np.random.default_rng(step).standard_normal(3).astype(np.float32)
        ema = update_ema(config, ema, {"w": jnp.asarray(new)}, jnp.int32(step))
        decay = min(0.5, (1 + step) / (10 + step))  # 0.5 from step 8 on
        wanted = decay * wanted + (1 - decay) * new
        np.testing.assert_allclose(ema["w"], wanted, rtol=1e-5, atol=1e-6)


def test_muon_orthogonalises_each_layer_on_its_own():
    params = toy_params()
    grads = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(2).standard_normal(leaf.shape), jnp.float32), params
    )
    config = OptimConfig(name="muon", lr=1.0, **CONSTANT)
    found = flat(updates_of(config, params, grads)[0])
    adam = flat(updates_of(OptimConfig(lr=1.0, **CONSTANT), params, grads)[0])
    one_layer = jax.jit(lambda params, grads: make_optimizer(config, 10, params).update(grads, init(params), params)[0])

    def init(params: Any) -> Any:
        return make_optimizer(config, 10, params).init(params)

    for layer in range(3):
        alone = flat(one_layer(*(pick_layer(values, layer) for values in (params, grads))))
        for path, update in found.items():
            if "/blocks/" not in path or not path.endswith("kernel"):
                np.testing.assert_allclose(update, adam[path], rtol=1e-6, err_msg=path)
                continue
            np.testing.assert_allclose(update[layer], alone[path][0], rtol=1e-4, atol=1e-5, err_msg=path)
            u, _, v = np.linalg.svd(flat(grads)[path][layer], full_matrices=False)
            size = 0.2 * math.sqrt(max(update.shape[1:]))
            inner = -(u.T @ update[layer] @ v.T) / size  # the identity, as nearly as five Newton-Schulz steps come
            assert np.abs(np.diag(inner) - 1).max() < 0.35, path
            assert np.abs(inner - np.diag(np.diag(inner))).max() < 0.05, path


def pick_layer(params: Any, layer: int) -> Any:
    return tree.map_with_path(lambda path, leaf: leaf[layer : layer + 1] if "/blocks/" in path else leaf, params)
