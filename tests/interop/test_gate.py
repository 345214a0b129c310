"""The gate must open for the right model, and for nothing that is nearly right."""

import dataclasses
import functools
import io
import re

import numpy as np
import pytest
from rich.console import Console

from clip_jax import tree
from clip_jax.data.images import preprocess
from clip_jax.interop.layouts import huggingface, openai
from clip_jax.interop.proof import gate, libraries, reference
from clip_jax.interop.proof.outputs import Foreign, paired
from clip_jax.interop.proof.samples import samples
from clip_jax.interop.rules import to_theirs
from clip_jax.models.clip import CLIPConfig, PreprocessConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig
from clip_jax.tokenizer import Tokenizer
from tests.interop import weights

VIT = CLIPConfig(
    embed_dim=24,
    vision_cfg=VisionConfig(layers=2, width=64, head_width=16, patch_size=8, image_size=32),
    text_cfg=TextConfig(context_length=16, width=48, heads=4, layers=2),
    quick_gelu=True,
)
SIGLIP = dataclasses.replace(
    weights.SIGLIP,
    text_cfg=dataclasses.replace(
        weights.SIGLIP.text_cfg, vocab_size=49408, context_length=16, pad_id=0, tokenizer_clean="none"
    ),
)


@pytest.fixture(autouse=True)
def without_libraries(monkeypatch):
    """They have their own tests; our readers are faster."""

    def missing(layout):
        raise ModuleNotFoundError(layout)

    monkeypatch.setattr(libraries, "import_library", missing)


@functools.cache
def real(config):
    return gate.inputs(config)


@functools.cache
def model(config):
    """Its parameters, with logits at scale 100; and what clip_jax computes from them."""
    params = weights.random_params(config) | {"logit_scale": np.asarray(np.log(100), np.float32)}
    return params, gate.ours(config, params, *real(config))


def theirs(config):
    """(state, settings) in Hugging Face's layout."""
    return to_theirs(huggingface.rules(config), model(config)[0]), huggingface.to_json(config)


def run(config, state, settings, *, pixels=None, tokens=None):
    """What Hugging Face's layout gives for these."""
    given = real(config)
    pixels, tokens = given[0] if pixels is None else pixels, given[1] if tokens is None else tokens
    return gate.run(Foreign(layout="huggingface", path=None, state=state, settings=settings), pixels, tokens)


def refused(config, other, parts):
    """Whether the gate finds `other` different from ours, in these parts (and the logits) and in no other."""
    difference = gate.compare(model(config)[1], other)
    with pytest.raises(gate.NotProven) as error:
        gate.check(difference)
    assert {name for name in ("image", "text") if not getattr(difference, name) <= 1e-6} == set(parts)
    assert not difference.logits <= gate.TOLERANCE
    return str(error.value)


@pytest.mark.parametrize("config", [VIT, SIGLIP], ids=["clip", "siglip"])
def test_the_right_model_passes(config):
    difference = gate.compare(model(config)[1], run(config, *theirs(config)))
    gate.check(difference)
    assert max(difference.image, difference.text) < 2e-6
    assert difference.logits < 5e-5
    assert difference.cosine > 1 - 1e-10
    assert difference.by == (
        "clip_jax in float32",
        f"clip_jax's own reader of Hugging Face's layout; {libraries.absence('huggingface')}",
    )


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_our_towers_equal_the_reader_of_openai(family):
    config = weights.FAMILIES[family]
    params, (pixels, tokens) = weights.random_params(config), weights.inputs(config)
    state = to_theirs(openai.rules(config), params)
    difference = gate.compare(
        gate.ours(config, params, pixels, tokens), reference.outputs("openai", state, {}, pixels, tokens)
    )
    gate.check(difference, 2e-5)


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_a_wrong_activation_is_noticed(tower):
    state, settings = theirs(VIT)
    for name in ("gelu", "gelu_pytorch_tanh"):
        wrong = settings | {f"{tower}_config": settings[f"{tower}_config"] | {"hidden_act": name}}
        refused(VIT, run(VIT, state, wrong), ["image" if tower == "vision" else "text"])


def test_the_tanh_gelu_is_not_the_exact_one():
    """No element of an embedding is 1e-4 off; the logits are."""
    state, settings = theirs(SIGLIP)
    wrong = settings | {"text_config": settings["text_config"] | {"hidden_act": "gelu"}}
    said = refused(SIGLIP, run(SIGLIP, state, wrong), ["text"])
    assert "its tanh approximation" in said
    assert gate.compare(model(SIGLIP)[1], run(SIGLIP, state, wrong)).text < gate.TOLERANCE


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_swapped_queries_and_keys_are_noticed(tower):
    """Both of all layers: scores q'k become k'q, whose causal part is another."""
    state, settings = theirs(VIT)
    there = {"q": "k", "k": "q"}
    swapped = {
        re.sub(r"self_attn\.([qk])_proj", lambda m: f"self_attn.{there[m[1]]}_proj", key)
        if tower in key
        else key: array
        for key, array in state.items()
    }
    refused(VIT, run(VIT, swapped, settings), ["image" if tower == "vision" else "text"])


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_a_wrong_epsilon_is_noticed(tower):
    """It shows where a norm's input is small: here what enters the first block, or ln_pre."""
    state, settings = theirs(VIT)
    small = ("embeddings",)
    state = {key: array * 0.01 if any(name in key for name in small) else array for key, array in state.items()}
    right = run(VIT, state, settings)
    wrong = settings | {f"{tower}_config": settings[f"{tower}_config"] | {"layer_norm_eps": 1e-6}}
    difference = gate.compare(right, run(VIT, state, wrong))
    with pytest.raises(gate.NotProven, match="epsilon"):
        gate.check(difference)


def test_reading_texts_elsewhere_is_noticed():
    state, settings = theirs(VIT)
    wrong = settings | {"text_config": settings["text_config"] | {"eos_token_id": 49406}}
    said = refused(VIT, run(VIT, state, wrong), ["text"])
    assert "the token a text is read at" in said


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_shifted_positions_are_noticed(tower):
    state, settings = theirs(VIT)
    key = f"{tower}_model.embeddings.position_embedding.weight"
    refused(
        VIT,
        run(VIT, state | {key: np.roll(state[key], 1, axis=0)}, settings),
        ["image" if tower == "vision" else "text"],
    )


def test_patches_in_another_order_are_noticed():
    """As a kernel read as (channel, row, column), or with rows and columns exchanged."""
    state, settings = theirs(VIT)
    key = "vision_model.embeddings.patch_embedding.weight"
    refused(VIT, run(VIT, state | {key: state[key].transpose(0, 1, 3, 2)}, settings), ["image"])
    refused(VIT, run(VIT, state | {key: state[key][:, ::-1]}, settings), ["image"])


@pytest.mark.parametrize("off", [0.001, -20.0])
def test_a_wrong_bias_is_noticed(off):
    state, settings = theirs(SIGLIP)
    said = refused(SIGLIP, run(SIGLIP, state | {"logit_bias": state["logit_bias"] + off}, settings), [])
    assert said.endswith("Look at logit_scale (its log is stored) and logit_bias")


def test_a_scale_without_its_logarithm_is_noticed():
    state, settings = theirs(VIT)
    refused(VIT, run(VIT, state | {"logit_scale": np.exp(state["logit_scale"] / 4)}, settings), [])


def test_another_padding_is_noticed():
    state, settings = theirs(SIGLIP)
    tokens = real(SIGLIP)[1].copy()
    tokens[tokens == 0] = 1
    refused(SIGLIP, run(SIGLIP, state, settings, tokens=tokens), ["text"])


def test_other_means_are_noticed():
    other = dataclasses.replace(VIT, preprocess_cfg=PreprocessConfig(mean=(0.5,) * 3, std=(0.5,) * 3))
    said = refused(VIT, run(VIT, *theirs(VIT), pixels=gate.inputs(other)[0]), ["image"])
    assert "mean and std" in said


def test_heads_of_another_width_are_noticed():
    state, settings = theirs(VIT)
    wrong = settings | {"vision_config": settings["vision_config"] | {"num_attention_heads": 2}}
    refused(VIT, run(VIT, state, wrong), ["image"])


def test_a_number_that_is_none_fails():
    params = model(VIT)[0]
    broken = params | {
        "text": params["text"] | {"positional_embedding": params["text"]["positional_embedding"] * np.nan}
    }
    difference = gate.compare(gate.ours(VIT, broken, *real(VIT)), model(VIT)[1])
    assert np.isnan([difference.text, difference.logits, difference.cosine]).all()
    with pytest.raises(gate.NotProven, match="text embeddings nan"):
        gate.check(difference)


def test_every_parameter_of_ours_matters():
    """The samples reach each of them: none could be converted wrongly and pass."""
    config = dataclasses.replace(VIT, init_logit_bias=-3.0)
    params = weights.random_params(config)
    leaves = tree.leaves_by_path(params)
    right = gate.ours(config, params, *real(VIT))
    for path, leaf in leaves.items():
        if path == "text/token_embedding":
            changed = leaf[::-1]
        else:
            changed = leaf + np.float32(0.1) * np.random.default_rng(0).standard_normal(leaf.shape).astype(np.float32)
        if path.endswith("qkv/bias"):  # a key's bias moves all scores of a query alike
            changed[:, leaf.shape[1] // 3 : 2 * leaf.shape[1] // 3] = leaf[
                :, leaf.shape[1] // 3 : 2 * leaf.shape[1] // 3
            ]
        difference = gate.compare(right, gate.ours(config, tree.nested(leaves | {path: changed}), *real(VIT)))
        with pytest.raises(gate.NotProven):
            gate.check(difference)


def test_inputs_are_the_samples_as_the_model_takes_them():
    cfg = PreprocessConfig(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bilinear", resize_mode="squash")
    pixels, tokens = gate.inputs(dataclasses.replace(VIT, preprocess_cfg=cfg))
    images, captions = samples()
    squares = np.stack([preprocess(image, 32, interpolation="bilinear", resize_mode="squash") for image in images])
    expected = (squares.astype(np.float64) / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.4, 0.5, 0.6])
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(tokens, Tokenizer(16)(captions))
    assert (tokens[:, -1] == Tokenizer.eot_id).sum() >= 2
    assert (tokens[:, -1] == 0).sum() >= 2


def test_ours_is_in_f32_unless_asked():
    params, full = model(VIT)
    half = dataclasses.replace(VIT, dtype="bfloat16")
    np.testing.assert_array_equal(gate.ours(half, params, *real(VIT)).logits, full.logits)
    difference = gate.compare(full, gate.ours(VIT, params, *real(VIT), dtype="bfloat16"))
    assert 1e-4 < difference.image < 0.05
    assert 0.999 < difference.cosine < 1
    assert difference.by[1] == "clip_jax in bfloat16"


def test_the_library_is_asked_first(monkeypatch):
    state, settings = theirs(VIT)
    witness = dataclasses.replace(run(VIT, state, settings), by="a library 1.0")
    monkeypatch.setattr(libraries, "outputs", lambda *args, **kwargs: witness)
    assert run(VIT, state, settings) is witness


def test_models_of_different_sizes_are_not_compared():
    left, right = (paired(np.ones((2, n)), np.ones((2, n)), scale=1.0, bias=0.0, by="") for n in (3, 4))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        gate.compare(left, right)


def test_figures_and_table():
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 8, 5))
    left = paired(image, text, scale=10.0, bias=-1.0, by="one")
    np.testing.assert_allclose(np.linalg.norm(left.image, axis=-1), 1)
    np.testing.assert_allclose(left.logits[2, 3], 10 * left.image[2] @ left.text[3] - 1)
    moved = dataclasses.replace(left, image=left.image + np.eye(8, 5) * 3e-3, logits=left.logits - 0.25, by="other")
    difference = gate.compare(left, moved)
    assert (difference.image, difference.text, difference.logits) == (pytest.approx(3e-3), 0, pytest.approx(0.25))
    assert difference.cosine == pytest.approx(min((left.image * moved.image).sum(-1)))
    with pytest.raises(
        gate.NotProven, match=r"image embeddings 3\.00e-03, text embeddings 0\.00e\+00, logits 2\.50e-01"
    ):
        gate.check(difference)
    gate.check(difference, 0.26)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(gate.table(difference))
    shown = console.export_text()
    assert "one  against  other" in shown
    assert re.search(r"image embeddings\W+3\.0e-03\W+1e-04", shown)
    assert re.search(r"logits\W+2\.5e-01", shown)
    assert "8 images and 8 captions" in shown
