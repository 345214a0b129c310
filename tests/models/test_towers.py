"""The towers against NumPy, their causality, ways of running, sizes, initialisation and patch dropout."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from clip_jax import tree
from clip_jax.models import presets
from clip_jax.models.clip import (
    CLIPConfig,
    PreprocessConfig,
    abstract_params,
    adapt_positions,
    bind,
    init_params,
    noise_for,
)
from clip_jax.models.layers import Block, BlockConfig, Running, run_blocks, stacked_blocks
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig, drop_patches, resize_positions
from clip_jax.plain import from_dict
from tests.conftest import QUICK_COMPILE
from tests.models import reference


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK_COMPILE)
def encode(config: CLIPConfig, params, images, tokens, noise=None):
    clip = bind(config, params)
    return clip.encode_image(images, noise), clip.encode_text(tokens)


def normalized(config: CLIPConfig, images: np.ndarray) -> np.ndarray:
    mean, std = np.array(config.preprocess_cfg.mean), np.array(config.preprocess_cfg.std)
    return (images / 255.0 - mean) / std


@pytest.fixture(scope="module")
def rough(small_params):
    """Parameters away from their initial zeros and ones, so that every bias and every scale counts."""
    leaves, structure = jax.tree.flatten(small_params)
    rng = np.random.default_rng(5)
    noisy = [np.asarray(leaf) + 0.1 * rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, noisy)


@pytest.fixture(scope="module")
def embedded(small, rough, small_batch):
    return encode(small, rough, small_batch["image"], small_batch["text"])


def test_towers_equal_numpy(small, rough, small_batch, embedded):
    image, text = embedded
    pixels = normalized(small, small_batch["image"])
    np.testing.assert_allclose(image, reference.image_embeddings(small, rough, pixels), atol=1e-5)
    np.testing.assert_allclose(text, reference.text_embeddings(small, rough, small_batch["text"]), atol=1e-5)


def test_quick_gelu_equals_numpy(small, rough, small_batch, embedded):
    quick = dataclasses.replace(small, quick_gelu=True)
    image, text = encode(quick, rough, small_batch["image"], small_batch["text"])
    pixels = normalized(small, small_batch["image"])
    np.testing.assert_allclose(image, reference.image_embeddings(quick, rough, pixels), atol=1e-5)
    np.testing.assert_allclose(text, reference.text_embeddings(quick, rough, small_batch["text"]), atol=1e-5)
    assert np.abs(image - embedded[0]).max() > 1e-3  # the two activations are not the same model


def test_embeddings_are_unit_and_f32(embedded):
    for rows in embedded:
        assert rows.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-6)


def test_normalized_floats_give_what_bytes_give(small, rough, small_batch, embedded):
    floats = normalized(small, small_batch["image"]).astype(np.float32)
    np.testing.assert_allclose(encode(small, rough, floats, small_batch["text"])[0], embedded[0], atol=1e-6)


def test_bf16_is_close_to_f32(small, rough, small_batch, embedded):
    half = dataclasses.replace(small, dtype="bfloat16")
    for coarse, fine in zip(encode(half, rough, small_batch["image"], small_batch["text"]), embedded, strict=True):
        assert coarse.dtype == jnp.float32
        assert (coarse * fine).sum(-1).min() > 0.999


def test_texts_padded_with_their_end_are_the_same_texts(small, rough, small_batch, embedded):
    """As Hugging Face pads CLIP's; the first of the highest ids is where the text is read."""
    text = small_batch["text"]
    padded = np.where(text == 0, text.max(), text)
    assert ((padded == text.max()).sum(axis=1) > 1).any()
    np.testing.assert_array_equal(encode(small, rough, small_batch["image"], padded)[1], embedded[1])


def test_text_is_causal_by_gradients(small, small_params):
    end = 4
    tokens = np.array([[10, 11, 12, 13, 63, 14, 15, 16]], np.int32)

    def first_number(table, positions):
        text = small_params["text"] | {"token_embedding": table, "positional_embedding": positions}
        return bind(small, small_params | {"text": text}).encode_text(tokens)[0, 0]

    text = small_params["text"]
    grad = jax.jit(jax.grad(first_number, argnums=(0, 1)), compiler_options=QUICK_COMPILE)
    found = grad(text["token_embedding"], text["positional_embedding"])
    by_id, by_position = (np.abs(array).max(axis=-1) for array in found)
    np.testing.assert_array_equal(by_id[tokens[0]] > 0, np.arange(8) <= end)
    np.testing.assert_array_equal(by_position > 0, np.arange(8) <= end)


@pytest.fixture(scope="module")
def stack():
    blocks = jax.jit(
        lambda: stacked_blocks(BlockConfig(width=16, heads=2, hidden=64, causal=True), 2, rngs=nnx.Rngs(0))
    )()
    x = jax.random.normal(jax.random.key(1), (2, 5, 16), jnp.float32)

    def out_and_grads(running: Running):
        def weigh(blocks: Block, x: jax.Array):
            y = run_blocks(blocks, x, running)
            return (y * jnp.cos(y)).sum(), y

        both = jax.value_and_grad(weigh, argnums=(0, 1), has_aux=True)
        (_, y), grads = jax.jit(both, compiler_options=QUICK_COMPILE)(blocks, x)
        return y, grads

    return out_and_grads, out_and_grads(Running())


@pytest.mark.parametrize("remat", ["none", "dots", "block"])
@pytest.mark.parametrize("scan", [True, False])
def test_ways_of_running_change_nothing(stack, scan, remat):
    run, expected = stack
    found = run(Running(scan=scan, remat=remat))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# Counts of OpenAI's and LAION's checkpoints; millions of the two towers as open_clip's model_profile.csv has them.
@pytest.mark.parametrize(
    ("name", "parameters", "image", "text"),
    [
        ("ViT-B-32", 151_277_313, 87.85, 63.43),
        ("ViT-B-16", 149_620_737, 86.19, 63.43),
        ("ViT-L-14", 427_616_513, 303.97, 123.65),
        ("ViT-H-14", 986_109_441, 632.08, 354.03),
    ],
)
def test_parameter_counts(name, parameters, image, text):
    params = abstract_params(presets.preset(name))
    assert tree.count(params) == parameters
    assert round(tree.count(params["visual"]) / 1e6, 2) == image
    assert round(tree.count(params["text"]) / 1e6, 2) == text


@pytest.mark.parametrize("name", presets.NAMES)
def test_presets_build(name):
    params = abstract_params(presets.preset(name))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    quick = presets.preset(f"{name}-quickgelu")
    assert quick == dataclasses.replace(presets.preset(name), quick_gelu=True)


@pytest.mark.parametrize(
    ("given", "near"), [("ViT-B/32", "ViT-B-32"), ("vit-l-14", "ViT-L-14"), ("ViT-H-14-quickgelu2", "ViT-H-14")]
)
def test_unknown_preset_names_the_nearest(given, near):
    with pytest.raises(ValueError, match=f"unknown model '{given}'; did you mean '{near}.*ViT-bigG-14.*quickgelu"):
        presets.preset(given)


def test_initialisation():
    width, layers = 128, 4
    config = CLIPConfig(
        embed_dim=96,
        vision_cfg=VisionConfig(layers=layers, width=width, head_width=32, patch_size=8, image_size=64),
        text_cfg=TextConfig(context_length=64, vocab_size=512, width=width, heads=4, layers=layers),
    )
    params = jax.jit(lambda: init_params(config, jax.random.key(0)))()
    residual = width**-0.5 * (2 * layers) ** -0.5
    stds = {
        "visual/patch_embedding/kernel": 192**-0.5,
        "visual/class_embedding": width**-0.5,
        "visual/positional_embedding": width**-0.5,
        "visual/proj/kernel": width**-0.5,
        "text/token_embedding": 0.02,
        "text/positional_embedding": 0.01,
        "text/proj/kernel": width**-0.5,
    }
    for tower in ("visual", "text"):
        stds[f"{tower}/blocks/attn/qkv/kernel"] = width**-0.5
        stds[f"{tower}/blocks/attn/out/kernel"] = residual
        stds[f"{tower}/blocks/mlp/fc/kernel"] = (2 * width) ** -0.5
        stds[f"{tower}/blocks/mlp/proj/kernel"] = residual
    for path, leaf in zip(tree.paths(params), jax.tree.leaves(params), strict=True):
        leaf = np.asarray(leaf)
        if path == "logit_scale":
            assert leaf == np.float32(math.log(1 / 0.07))
        elif path in stds:
            error = 4 / math.sqrt(2 * leaf.size)  # four standard errors
            assert abs(leaf.std() / stds.pop(path) - 1) < error, path
            assert abs(leaf.mean()) < 4 * leaf.std() / math.sqrt(leaf.size), path
        else:
            assert path.endswith(("scale", "bias")), path
            np.testing.assert_array_equal(leaf, float(path.endswith("scale")))
        if "/blocks/" in path and path.endswith("kernel"):
            assert len(np.unique(leaf.reshape(layers, -1)[:, 0])) == layers, f"{path}: layers are alike"
    assert not stds


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.99])
def test_drop_patches_keeps_a_subset_of_each_sample(rate):
    samples, patches = 6, 10
    x = np.arange(samples * patches, dtype=np.float32).reshape(samples, patches, 1)
    again, kept, other = (
        np.asarray(drop_patches(jnp.asarray(x), rate, jax.random.uniform(jax.random.key(seed), (samples, patches))))
        for seed in (0, 0, 1)
    )
    again, kept, other = (found[..., 0].astype(int) for found in (again, kept, other))
    assert kept.shape == (samples, max(1, int(patches * (1 - rate))))
    np.testing.assert_array_equal(kept // patches, np.broadcast_to(np.arange(samples)[:, None], kept.shape))
    assert all(len(set(row)) == len(row) for row in kept)
    np.testing.assert_array_equal(again, kept)
    assert (other != kept).any()
    assert len({tuple(sorted(row % patches)) for row in kept}) > 1  # not the same patches of every sample


def test_patch_dropout_keeps_positions_and_is_off_without_noise(small, rough, small_batch, embedded):
    config = dataclasses.replace(small, vision_cfg=dataclasses.replace(small.vision_cfg, patch_dropout=0.5))
    images, text = small_batch["image"], small_batch["text"]
    noise = noise_for(config, len(images), jax.random.key(3))
    found = encode(config, rough, images, text, noise)[0]
    numbers = jnp.broadcast_to(jnp.arange(4, dtype=jnp.float32)[None, :, None], (len(images), 4, 1))
    kept = np.asarray(drop_patches(numbers, 0.5, noise))[..., 0].astype(int)
    assert kept.shape == (16, 2)
    np.testing.assert_allclose(
        found, reference.image_embeddings(small, rough, normalized(small, images), kept), atol=1e-5
    )
    np.testing.assert_array_equal(encode(config, rough, images, text)[0], embedded[0])


@pytest.mark.parametrize(("old", "new"), [(7, 4), (7, 14), (5, 8), (14, 16), (16, 7)])
def test_resize_positions_equals_pillow(old, new):
    positions = np.random.default_rng(0).standard_normal((1 + old * old, 3)).astype(np.float32)
    found = np.asarray(resize_positions(jnp.asarray(positions), new))
    np.testing.assert_array_equal(found[0], positions[0])
    np.testing.assert_array_equal(resize_positions(jnp.asarray(positions[1:]), new, token=False), found[1:])
    for channel in range(3):
        picture = Image.fromarray(positions[1:, channel].reshape(old, old))
        wanted = np.asarray(picture.resize((new, new), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(found[1:, channel].reshape(new, new), wanted, atol=1e-5)


def test_positions_of_the_same_grid_stay(small, small_params):
    positions = small_params["visual"]["positional_embedding"]
    assert resize_positions(positions, 2) is positions
    larger = dataclasses.replace(small, vision_cfg=dataclasses.replace(small.vision_cfg, image_size=32))
    adapted = adapt_positions(small_params, larger)
    assert jax.tree.map(jnp.shape, adapted) == jax.tree.map(jnp.shape, abstract_params(larger))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_cfg": VisionConfig(image_size=100)}, "image_size 100 is not a multiple of patch_size 16"),
        ({"vision_cfg": VisionConfig(width=100)}, "vision width 100 is not a multiple of head_width 64"),
        ({"vision_cfg": VisionConfig(patch_dropout=1.0)}, r"patch_dropout 1.0 is not in \[0, 1\)"),
        ({"text_cfg": TextConfig(width=100)}, "text width 100 is not a multiple of heads 8"),
        ({"embed_dim": 0}, "^embed_dim is 0; it must be at least 1"),
        *(
            ({"vision_cfg": VisionConfig(**{name: value})}, f"^vision_cfg.{name} is {value}; it must be at least 1")
            for name in ("layers", "width", "head_width", "patch_size", "image_size")
            for value in (0, -64)
        ),
        *(
            ({"text_cfg": TextConfig(**{name: value})}, f"^text_cfg.{name} is {value}; it must be at least 1")
            for name in ("context_length", "vocab_size", "width", "heads", "layers")
            for value in (0, -8)
        ),
        *(
            ({tower: config(mlp_ratio=value)}, f"^{tower}.mlp_ratio is {value}; it must be above 0")
            for tower, config in (("vision_cfg", VisionConfig), ("text_cfg", TextConfig))
            for value in (0.0, -4.0, 0.001, math.inf, math.nan)
        ),
    ],
)
def test_config_errors(change, message):
    with pytest.raises(ValueError, match=message):
        abstract_params(CLIPConfig(**change))


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize(
    "given",
    [
        (0.5, 0.5),
        (0.5, 0.5, math.nan),
        (0.5, math.inf, 0.5),
        ("0.5", 0.5, 0.5),
        (True, 0.5, 0.5),
        [0.5] * 3,
        0.5,
        "abc",
    ],
    ids=repr,
)
def test_means_and_deviations_are_three_finite_numbers(name, given):
    with pytest.raises(ValueError, match=rf"^preprocess_cfg\.{name} is .*; give a tuple of three finite numbers"):
        PreprocessConfig(**{name: given})


@pytest.mark.parametrize("least", [0, -0.5, -math.inf])
def test_deviations_are_above_0(least):
    std = (0.5, 0.5, least)
    message = r"^preprocess_cfg\.std is \(0\.5, 0\.5, .*\); give a tuple of three finite numbers above 0$"
    with pytest.raises(ValueError, match=message):
        PreprocessConfig(std=std)
    with pytest.raises(ValueError, match=message):
        from_dict(CLIPConfig, {"preprocess_cfg": {"std": list(std)}}, "model")


def test_means_may_be_of_any_sign():
    assert PreprocessConfig(mean=(-1, 0, np.float32(2)), std=(1, 0.5, 1e-9)).mean == (-1, 0, 2)
