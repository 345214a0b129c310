"""The graphs of exports against the towers they are made of, and float16 against NumPy's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.export.graph import graph
from clip_jax.export.half import LIMIT, in_half, within_half
from clip_jax.models.resnet import with_norms_folded
from tests.export.models import CONFIGS, wanted


@pytest.mark.parametrize("preprocess", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_graph_gives_what_the_model_gives(exported, kind, preprocess):
    config, params, samples = exported(kind)
    made = graph(config, params, "joint", preprocess=preprocess)
    inputs = samples.inputs(made.inputs, np.arange(6))
    assert inputs["pixels"].dtype == (np.uint8 if preprocess else np.float32)
    image, text, logits = jax.jit(made.function)(*inputs.values())
    np.testing.assert_allclose(image, samples.outputs["image_embedding"][:6], atol=1e-6)
    np.testing.assert_allclose(text, samples.outputs["text_embedding"][:6], atol=1e-6)
    np.testing.assert_allclose(logits, samples.scale * np.asarray(image) @ np.asarray(text).T + samples.bias, atol=1e-4)


def test_towers_hold_their_own_parameters(exported):
    config, params, _ = exported("vit")
    image, text = (graph(config, params, tower, preprocess=False) for tower in ("image", "text"))
    assert image.outputs == ("image_embedding",)
    assert list(text.inputs) == ["tokens"]
    assert image.parameters + text.parameters + 1 == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert all(path.startswith("visual/") for path in image.weights)


@pytest.mark.parametrize(("stored", "far"), [("f16", 2e-3), ("int8", 5e-2)])
def test_stored_weights_are_unpacked_inside(exported, stored, far):
    config, params, samples = exported("vit")
    made = graph(config, params, "text", preprocess=False, stored=stored, tables=stored)
    (text,) = jax.jit(made.function)(samples.tokens[:6])
    difference = np.abs(text - samples.outputs["text_embedding"][:6]).max()
    assert 1e-7 < difference < far


def test_folded_norms_are_biases_alone():
    leaves = {
        "visual/layer1/0/conv2/kernel": np.ones((3, 3, 1, 2), np.float32),
        "visual/layer1/0/bn2/scale": np.array([2.0, 3.0], np.float32),
        "visual/layer1/0/bn2/bias": np.array([1.0, 1.0], np.float32),
        "visual/layer1/0/bn2/mean": np.array([0.5, 1.0], np.float32),
        "visual/layer1/0/bn2/var": np.array([4.0, 9.0], np.float32) - np.float32(1e-5),
    }
    found = with_norms_folded(leaves)
    np.testing.assert_allclose(found["visual/layer1/0/conv2/kernel"][0, 0, 0], [1, 1], rtol=1e-6)
    np.testing.assert_allclose(found["visual/layer1/0/bn2/bias"], [0.5, 0.0], atol=1e-6)
    assert not found["visual/layer1/0/bn2/mean"].any()


def test_constants_beyond_half_are_drawn_in_and_no_row_is_filled_with_nan():
    mask = np.array([0.0, -2e38], np.float32)

    def function(x):
        return (jax.nn.softmax(x + mask),)

    text = str(jax.make_jaxpr(within_half(function))(np.zeros(2, np.float32)))
    (found,) = within_half(function)(np.zeros(2, np.float32))
    np.testing.assert_array_equal(found, [1, 0])
    assert "e+38" not in text
    assert -LIMIT in np.clip(mask, -LIMIT, LIMIT)


def test_every_result_is_rounded_to_half():
    a, b = (np.random.default_rng(seed).normal(size=64).astype(np.float32) for seed in (0, 1))
    (found,) = in_half(lambda x, y: (jnp.tanh(x + y),))(a, b)
    halves = np.tanh((a.astype(np.float16) + b.astype(np.float16)).astype(np.float32)).astype(np.float16)
    np.testing.assert_allclose(found, halves.astype(np.float32), atol=2**-11)
    np.testing.assert_array_equal(found, np.asarray(found, np.float16).astype(np.float32))


def test_a_loop_is_left_a_loop():
    def function(x):
        return (jax.lax.scan(lambda carry, row: (carry + row, None), jnp.zeros(3), x)[0],)

    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(within_half(function)(rows)[0], rows.sum(axis=0))


def test_a_wanted_file_knows_its_graph(exported):
    config, params, _ = exported("vit")
    made = wanted(config, params, "image", preprocess=True).graph()
    assert made.abstract(3)[0].shape == (3, 16, 16, 3)
    assert made.abstract(3)[0].dtype == np.uint8


def test_products_are_of_all_bits_on_every_device(exported):
    config, params, _ = exported("resnet")
    made = graph(config, params, "joint", preprocess=False)
    program = str(jax.make_jaxpr(made.function)(*made.abstract(2)))
    products = program.count("dot_general[") + program.count("conv_general_dilated[")
    assert products > 20
    assert len(re.findall(r"precision=\(?Precision\.HIGHEST", program)) == products
