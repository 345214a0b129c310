"""Learned masks: their distribution, the masked model against a small one cut by hand, and the Lagrangian."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clip_jax import tree
from clip_jax.masking import (
    MASKS,
    MULTIPLIERS,
    MaskConfig,
    bounded,
    check_masking,
    drawn,
    init_masking,
    settled,
    shortfall,
    with_masks,
    without_masks,
)
from clip_jax.models.clip import CLIPConfig, abstract_params, bind, count_parameters
from clip_jax.models.masks import BOUNDS, expectation, init_masks, masked, open_probability, sample
from clip_jax.models.sparsity import expected_parameters, parameters_of, penalty, sparsity, target_at
from clip_jax.shrink import TowerSize, choice_of, shrunk, sizes_of
from tests.conftest import QUICK_COMPILE
from tests.models.test_siglip import CONFIG as SIGLIP
from tests.models.test_siglip import with_towers
from tests.models.test_towers import encode
from tests.test_inherit import embeddings, random_params

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def large(small: CLIPConfig) -> CLIPConfig:
    """Three layers of 4 heads of 8 in both towers."""
    return with_towers(small, vision={"layers": 3, "head_width": 8}, text={"layers": 3, "heads": 4})


@pytest.fixture(scope="module")
def params(large: CLIPConfig) -> Tree:
    return random_params(large, 1)


def hard_masks(config: CLIPConfig, sizes: dict[str, TowerSize]) -> Tree:
    """Log-alphas at their bounds: so many channels, heads and units are open, others in every layer."""
    rng = np.random.default_rng(0)

    def one(shape: tuple[int, ...], count: int) -> np.ndarray:
        order = rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
        return np.where(order < count, *reversed(BOUNDS)).astype(np.float32)

    found = {}
    for name, parts in init_masks(config, image=True, text=True).items():
        size = sizes[name]
        counts = {"channels": size.width, "heads": size.width // 8, "units": size.hidden}
        found[name] = {part: one(leaf.shape, counts[part]) for part, leaf in parts.items()}
    return found


SIZES = {"visual": TowerSize(width=16, hidden=37), "text": TowerSize(width=24, hidden=50)}


def test_hard_masks_are_the_smaller_model(large: CLIPConfig, params: Tree, small_batch: Tree):
    """The masked large model, against the student that was cut out of it, computed in float64 by other code."""
    masks = hard_masks(large, SIZES)
    assert sizes_of(masks, large) == SIZES
    config, student = shrunk(params, masks, large)
    assert config.vision_cfg == dataclasses.replace(large.vision_cfg, width=16, mlp_ratio=37 / 16)
    assert (config.text_cfg.width, config.text_cfg.heads) == (24, 3)
    batch = {name: rows[:4] for name, rows in small_batch.items()}
    under = encode(large, masked(params, expectation(masks)), batch["image"], batch["text"])
    for found, wanted in zip(under, embeddings(config, student, batch), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    for left, whole in zip(under, encode(large, params, batch["image"], batch["text"]), strict=True):
        assert np.abs(left - whole).max() > 0.05


def test_open_masks_are_the_model_itself(large: CLIPConfig, params: Tree, small_batch: Tree):
    z = expectation(init_masks(large, image=True, text=False))
    assert {float(part.min()) for part in z["visual"].values()} == {1.0}
    batch = small_batch["image"][:4], small_batch["text"][:4]
    for left, right in zip(encode(large, masked(params, z), *batch), encode(large, params, *batch), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def test_the_student_keeps_the_widest_masks_of_each_layer(large: CLIPConfig):
    masks = jax.tree.map(np.array, init_masks(large, image=True, text=False))
    masks["visual"]["heads"][:] = [[0, 3, 1, 2], [3, 2, 1, 0], [1, 1, 1, 1]]
    masks["visual"]["channels"][:] = np.arange(32) % 5
    config, choice = choice_of(masks, large, {"visual": TowerSize(width=16, hidden=128)})
    assert choice.image.heads == ((1, 3), (0, 1), (0, 1))
    assert choice.image.channels == tuple(i for i in range(32) if i % 5 >= 3 or i in (2, 7, 12, 17))
    assert choice.text.heads == ()
    assert config.text_cfg == large.text_cfg
    for width, said in ((12, "not a multiple of the head size 8"), (40, "not from 1 to the model's 32")):
        with pytest.raises(ValueError, match=said):
            choice_of(masks, large, {"visual": TowerSize(width=width, hidden=8)})


def test_a_size_keeps_as_many_parameters_as_its_masks(large: CLIPConfig):
    """Few channels under all heads, in a tower that is mostly its vocabulary: the width follows the parameters."""
    wordy = with_towers(large, text={"vocab_size": 49408})
    masks = jax.tree.map(np.array, init_masks(wordy, image=False, text=True))
    masks["text"]["channels"][8:] = BOUNDS[0]
    sizes = sizes_of(masks, wordy)
    assert sizes == {"text": TowerSize(width=8, hidden=128)}
    student = abstract_params(choice_of(masks, wordy, sizes)[0])["text"]
    assert tree.count(student) == pytest.approx(float(parameters_of(expectation(masks), wordy)["text"]), rel=0.05)


def test_draws_have_the_distribution_of_the_paper():
    """P(z = 0) and the mean of z, against Louizos et al. by quadrature in float64; and P(z > 0) by equation 12."""
    for log_alpha in (-1.5, 0.3, 2.0):
        masks = {"visual": {"channels": jnp.full((200_000,), log_alpha, jnp.float32)}}
        z = np.asarray(sample(masks, jax.random.key(0))["visual"]["channels"], np.float64)
        u = (np.arange(400_000) + 0.5) / 400_000
        s = 1 / (1 + np.exp(-(np.log(u / (1 - u)) + log_alpha) * 1.5))
        wanted = np.clip(s * 1.2 - 0.1, 0, 1)
        np.testing.assert_allclose(
            [z.mean(), (z > 0).mean(), (z == 1).mean()],
            [wanted.mean(), (wanted > 0).mean(), (wanted == 1).mean()],
            atol=4e-3,
        )
        np.testing.assert_allclose(open_probability(masks)["visual"]["channels"][0], (wanted > 0).mean(), atol=1e-5)
        quiet = min(max(1.2 / (1 + math.exp(-log_alpha)) - 0.1, 0), 1)
        np.testing.assert_allclose(expectation(masks)["visual"]["channels"][0], quiet, atol=1e-6)


def test_draws_differ_by_key_and_part(large: CLIPConfig):
    masks = jax.tree.map(jnp.zeros_like, init_masks(large, image=True, text=True))
    one, two = (jax.jit(sample)(masks, jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(one["visual"]["channels"] - two["visual"]["channels"]).max() > 0.1
    assert np.abs(one["visual"]["channels"] - one["text"]["channels"]).max() > 0.1


def test_parameters_are_counted_as_the_student_has_them(large: CLIPConfig):
    masks = hard_masks(large, SIZES)
    student, _ = choice_of(masks, large, SIZES)
    left = parameters_of(expectation(masks), large)
    assert float(sum(left.values())) == count_parameters(student) - 1  # logit_scale
    everything = parameters_of(jax.tree.map(jnp.ones_like, masks), large)
    assert float(sum(everything.values())) == count_parameters(large) - 1


def test_expected_parameters_are_the_mean_over_draws(large: CLIPConfig):
    rng = np.random.default_rng(3)
    masks = jax.tree.map(
        lambda leaf: rng.uniform(-3, 3, leaf.shape).astype(np.float32), init_masks(large, image=True, text=True)
    )

    @functools.partial(jax.jit, compiler_options=QUICK_COMPILE)
    @jax.vmap
    def counts(key: jax.Array) -> dict[str, jax.Array]:
        return parameters_of(jax.tree.map(lambda z: (z > 0).astype(jnp.float32), sample(masks, key)), large)

    found = counts(jax.random.split(jax.random.key(0), 8_000))
    for name, wanted in expected_parameters(masks, large).items():
        np.testing.assert_allclose(found[name].mean(), wanted, rtol=1e-2)


def test_the_lagrangian(large: CLIPConfig):
    masks = jax.tree.map(lambda leaf: 0.3 * jnp.ones_like(leaf), init_masks(large, image=True, text=False))
    reached = float(sparsity(masks, large)["visual"])
    multipliers = {"visual": jnp.asarray([0.7, 3.0], jnp.float32)}
    target = jnp.float32(reached + 0.2)
    both = jax.jit(jax.value_and_grad(functools.partial(penalty, config=large), argnums=(0, 1)))
    value, grads = both(masks, multipliers, target)
    np.testing.assert_allclose(value, 0.7 * 0.2 + 3.0 * 0.2**2, rtol=1e-5)
    np.testing.assert_allclose(grads[1]["visual"], [0.2, 0.04], rtol=1e-4)
    assert all(float(leaf.min()) > 0 for leaf in jax.tree.leaves(grads[0]))  # descending closes masks
    assert float(both(masks, multipliers, jnp.float32(reached - 0.1))[0]) == 0


def test_targets_rise_by_stages():
    stages = (0.0, 0.25, 0.5, 0.75)
    found = [float(target_at(stages, jnp.asarray(step), 80)) for step in (0, 20, 25, 30, 39, 45, 50, 65, 70, 80)]
    np.testing.assert_allclose(found, [0, 0, 0.125, 0.25, 0.25, 0.375, 0.5, 0.625, 0.75, 0.75], atol=1e-6)


def test_training_reaches_the_target_and_keeps_what_matters(large: CLIPConfig):
    """A loss that needs every second channel, head and unit of the image tower: these stay, the others go."""
    choice = MaskConfig(image=True, stages=(0.5,), lr=0.1)
    own = init_masking(choice, large)
    tx = with_masks(optax.sgd(1e-3), choice)
    state: Any = {"tower": jnp.ones((3,), jnp.float32)} | own
    opt = tx.init(state)
    steps = 300

    def loss(state: Tree, key: jax.Array, step: jax.Array) -> jax.Array:
        z = sample(state[MASKS], key)["visual"]
        needed = sum(jnp.square(1 - part[..., ::2]).sum() for part in z.values())
        return 0.1 * needed + shortfall(choice, large, state, step, steps)[0] + jnp.square(state["tower"]).sum()

    @functools.partial(jax.jit, compiler_options=QUICK_COMPILE)
    def update(state: Tree, opt: Any, step: jax.Array) -> tuple[Tree, Any]:
        grads = jax.grad(loss)(state, jax.random.fold_in(jax.random.key(0), step), step)
        updates, opt = tx.update(grads, opt, state)
        moved: Any = optax.apply_updates(state, updates)
        return bounded(moved), opt

    for step in range(steps):
        state, opt = update(state, opt, jnp.asarray(step, jnp.int32))
    assert float(sparsity(state[MASKS], large)["visual"]) > 0.48
    assert float(state[MULTIPLIERS]["visual"].min()) > 0  # they rose
    np.testing.assert_allclose(state["tower"], (1 - 2e-3) ** steps, rtol=1e-3)  # by its own optimizer
    for part in state[MASKS]["visual"].values():
        assert float(part[..., ::2].mean()) > float(part[..., 1::2].mean()) + 2
        assert BOUNDS[0] <= float(part.min()) <= float(part.max()) <= BOUNDS[1] + 1e-6


def test_masks_learn_from_the_model(large: CLIPConfig, params: Tree, small_batch: Tree):
    """Gradients reach every mask, in training's draws; without masks all is as it was."""
    state = params | init_masking(MaskConfig(image=True), large)
    state[MASKS] = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) + 0.5, state[MASKS])
    images = small_batch["image"][:4]
    wanted = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)

    def loss(state: Tree) -> jax.Array:
        clip = bind(large, drawn(state, jax.random.key(2)))
        return (clip.encode_image(images) * wanted).sum()

    grads = jax.jit(jax.grad(loss), compiler_options=QUICK_COMPILE)(state)[MASKS]
    for path, leaf in tree.leaves_by_path(grads).items():
        assert float((leaf != 0).mean()) > 0.4, path
        assert bool(jnp.isfinite(leaf).all())
    assert without_masks(state).keys() == params.keys()
    assert drawn(params, jax.random.key(0)) == settled(params) == params
    assert init_masking(MaskConfig(), large) == {}
    assert shortfall(MaskConfig(), large, params, jnp.asarray(0), 1)[1] == {}


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda large: init_masks(SIGLIP, image=True, text=True), "masks.image is on, but the image tower is no"),
        (
            lambda large: init_masks(with_towers(large, text={"proj_type": "none"}), image=False, text=True),
            "proj_type is 'none', and only a text tower with a projection",
        ),
        (lambda large: init_masks(large, image=False, text=False), "both off"),
        (lambda large: check_masking(MaskConfig(stages=(0.5, 0.25))), "give rising shares"),
        (lambda large: check_masking(MaskConfig(stages=(0.5, 1.0))), "give rising shares"),
        (lambda large: check_masking(MaskConfig(lr=0.0)), "must be above 0"),
    ],
)
def test_refusals(large: CLIPConfig, build: Any, said: str):
    with pytest.raises(ValueError, match=said):
        build(large)
