import re
from math import erf

import numpy as np
import pytest

from clip_jax.interop.proof import libraries, reference, reference_clip
from clip_jax.interop.proof.outputs import Foreign
from clip_jax.interop.proof.reference_math import Weights, attend, gelu, gelu_tanh, layer_norm, quick_gelu
from clip_jax.interop.proof.samples import COUNT, samples
from clip_jax.tokenizer import Tokenizer
from tests.interop import foreign_models as foreign


def near(left, right, atol=1e-5):
    """Embeddings to `atol`, logits to as much times their scale, 20."""
    np.testing.assert_allclose(left.image, right.image, rtol=0, atol=atol)
    np.testing.assert_allclose(left.text, right.text, rtol=0, atol=atol)
    np.testing.assert_allclose(left.logits, right.logits, rtol=0, atol=20 * atol)


def both(layout, state, settings, pixels, tokens):
    """What our reader and the library give."""
    weights = Foreign(layout=layout, path=None, state=state, settings=settings)
    library = libraries.outputs(weights, pixels, tokens)
    assert library is not None
    return reference.outputs(layout, state, settings, pixels, tokens), library


def test_samples_are_real_and_of_many_shapes():
    images, captions = samples()
    assert len(images) == len(captions) == len(set(captions)) == COUNT
    assert {image.dtype for image in images} == {np.dtype(np.uint8)}
    assert {image.ndim for image in images} == {3}
    assert min(image.std() for image in images) > 20
    assert len({image.shape for image in images}) >= 6
    assert {np.sign(height - width) for height, width, _ in (image.shape for image in images)} == {-1, 0, 1}
    lengths = [len(Tokenizer().encode(caption)) for caption in captions]
    assert min(lengths) < 8
    assert max(lengths) > 77
    assert not all(caption.isascii() for caption in captions)
    assert any(character.isdigit() for caption in captions for character in caption)


@pytest.mark.parametrize(
    "settings",
    [
        foreign.clip_settings(),
        foreign.clip_settings(act="gelu", eos=2, eps=1e-3),
        foreign.siglip_settings(),
    ],
    ids=["clip", "clip of old, with gelu", "siglip"],
)
def test_huggingface_equals_transformers(settings):
    foreign.imported("huggingface")
    state = foreign.state_of(foreign.transformers_model(settings))
    near(*both("huggingface", state, settings, *foreign.inputs()))


def test_huggingface_reads_defaults_and_old_dicts():
    foreign.imported("huggingface")
    pixels, tokens = foreign.inputs()
    tokens[:, -1] = 49_409  # a token of somebody's own, above the end of text: there the highest id is not the end
    full = foreign.clip_settings()
    full["text_config"]["vocab_size"] = 49_410
    towers = {
        name: {
            key: value
            for key, value in full[name].items()
            if key not in ("hidden_act", "layer_norm_eps", "eos_token_id")
        }
        for name in ("text_config", "vision_config")
    }
    settings = full | towers
    state = foreign.state_of(foreign.transformers_model(settings))
    explicit = reference.outputs("huggingface", state, full, pixels, tokens)
    ours, library = both("huggingface", state, settings, pixels, tokens)
    near(ours, library)
    near(ours, explicit, atol=1e-12)
    older = {key: value for key, value in towers["text_config"].items() if key != "num_attention_heads"}
    ours, library = both(
        "huggingface", state, settings | {"text_config_dict": older | {"hidden_act": "gelu"}}, pixels, tokens
    )
    near(ours, library)
    assert np.abs(ours.text - explicit.text).max() > 1e-3


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_openai_equals_its_own_code(tower):
    library = foreign.imported("openai")
    vision = {"vision_layers": 2, "vision_width": 128, "vision_patch_size": 8, "image_resolution": 32}
    if tower == "resnet":
        vision = {"vision_layers": (1, 2, 1, 1), "vision_width": 4, "vision_patch_size": None, "image_resolution": 96}
    text = {"context_length": foreign.LENGTH, "vocab_size": 49408, "transformer_width": 64}
    model = library.CLIP(embed_dim=24, **vision, **text, transformer_heads=1, transformer_layers=2)
    state = foreign.state_of(model) | {"input_resolution": np.array(32), "vocab_size": np.array(49408)}
    near(*both("openai", state, {}, *foreign.inputs(vision["image_resolution"])))


OPEN_CLIP = {
    "vit": {},
    "vit with quick gelu": {"quick_gelu": True},
    "defaults": {"vision_cfg": {"head_width": None, "width": 128}, "text_cfg": {"heads": None}},
    "resnet": {"vision_cfg": {"layers": [1, 1, 2, 1], "width": 4, "head_width": 16, "image_size": 64}},
    "other norms and gelu": {
        "init_logit_bias": -10,
        "vision_cfg": {"norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "tanh"}},
        "text_cfg": {"norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "tanh"}, "no_causal_mask": True},
    },
    "text apart": {"custom_text": True, "text_cfg": {"proj_bias": True, "pool_type": "eos", "eos_id": foreign.END}},
    "read last": {"custom_text": True, "embed_dim": 48, "text_cfg": {"proj_type": "none", "pool_type": "last"}},
    "read first": {"text_cfg": {"pool_type": "first", "no_causal_mask": True}},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", OPEN_CLIP.values(), ids=OPEN_CLIP.keys())
def test_open_clip_equals_open_clip(changes):
    library = foreign.imported("open_clip")
    settings = foreign.open_clip_settings(**changes)
    given = {key: value for key, value in settings["model_cfg"].items() if key != "custom_text"}
    model = (library.CustomTextCLIP if changes.get("custom_text") else library.CLIP)(**given)
    near(
        *both(
            "open_clip",
            foreign.state_of(model),
            settings,
            *foreign.inputs(changes.get("vision_cfg", {}).get("image_size", 32)),
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("vit_base_patch32_siglip_256", 12),
        ("vit_base_patch16_siglip_224", 12),
        ("vit_large_patch16_siglip_512", 16),
        ("vit_large_patch16_siglip_256", 16),
        ("vit_so400m_patch14_siglip_384", 16),
        ("vit_so400m_patch16_siglip_256", 16),
        ("vit_giantopt_patch16_siglip_256", 16),
    ],
)
def test_open_clip_siglip_equals_timm(name, heads, monkeypatch):
    library, timm = foreign.imported("open_clip"), pytest.importorskip("timm")
    create, small = timm.create_model, {"embed_dim": 4 * heads, "depth": 2, "img_size": 32, "patch_size": 8}
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: create(*args, **kwargs | small))
    vision = {"timm_model_name": name, "timm_pool": "map", "timm_proj": "none", "image_size": 32}
    text = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    settings = foreign.open_clip_settings(
        embed_dim=4 * heads, custom_text=True, init_logit_bias=-10, vision_cfg=vision, text_cfg=text
    )
    model = library.CustomTextCLIP(**{key: v for key, v in settings["model_cfg"].items() if key != "custom_text"})
    state = foreign.state_of(model)
    ours, timms = both("open_clip", state, settings, *foreign.inputs())
    near(ours, timms, atol=2e-6)
    tanh = re.fullmatch(reference_clip._TIMM_TANH, name)
    monkeypatch.setattr(reference_clip, "_TIMM_TANH", "none" if tanh else ".*")
    other = reference.outputs("open_clip", state, settings, *foreign.inputs())
    assert np.abs(other.image - timms.image).max() > 2e-5


def big_vision_outputs(state, pixels, tokens):
    """big_vision's SigLIP in Flax's own modules, as its models/vit.py and text_transformer.py put them together."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    class MlpBlock(nn.Module):
        hidden: int

        @nn.compact
        def __call__(self, x):
            hidden = nn.gelu(nn.Dense(self.hidden)(x))
            return nn.Dense(x.shape[-1])(hidden)

    class Encoder1DBlock(nn.Module):
        heads: int
        hidden: int

        @nn.compact
        def __call__(self, x):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads)(y, y)
            y = nn.LayerNorm()(x)
            return x + MlpBlock(self.hidden)(y)

    class Encoder(nn.Module):
        heads: int
        hidden: int

        @nn.compact
        def __call__(self, x):
            for i in range(2):
                x = Encoder1DBlock(self.heads, self.hidden, name=f"encoderblock_{i}")(x)
            return nn.LayerNorm(name="encoder_norm")(x)

    class MAPHead(nn.Module):
        heads: int
        hidden: int

        @nn.compact
        def __call__(self, x):
            probe = self.param("probe", nn.initializers.zeros, (1, 1, x.shape[-1]))
            x = nn.MultiHeadDotProductAttention(num_heads=self.heads)(jnp.tile(probe, [x.shape[0], 1, 1]), x)
            y = nn.LayerNorm()(x)
            return (x + MlpBlock(self.hidden)(y))[:, 0]

    class Image(nn.Module):
        @nn.compact
        def __call__(self, images):
            patch = (foreign.PATCH, foreign.PATCH)
            x = nn.Conv(48, patch, strides=patch, padding="VALID", name="embedding")(images)
            x = x.reshape(x.shape[0], -1, 48)
            x = x + self.param("pos_embedding", nn.initializers.zeros, (1, x.shape[1], 48))
            return MAPHead(3, 80)(Encoder(3, 80, name="Transformer")(x))

    class Text(nn.Module):
        @nn.compact
        def __call__(self, ids):
            x = nn.Embed(49408, 48)(ids)
            x = x + self.param("pos_embedding", nn.initializers.zeros, (1, x.shape[1], 48))
            return nn.Dense(48, name="head")(Encoder(4, 80)(x)[:, -1])

    def params(tower):
        tree = {}
        for key, array in state.items():
            *folders, name = key.removeprefix("params/").split("/")
            node = tree
            for folder in folders:
                node = node.setdefault(folder, {})
            node[name] = array
        return {"params": tree[tower]}

    with jax.numpy_rank_promotion("allow"), jax.default_matmul_precision("highest"):
        image = np.asarray(jax.jit(Image().apply)(params("img"), pixels), np.float64)
        text = np.asarray(jax.jit(Text().apply)(params("txt"), tokens), np.float64)
    image, text = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
    return image, text, np.exp(float(state["params/t"][0])) * image @ text.T + float(state["params/b"][0])


def test_big_vision_equals_its_modules():
    state = foreign.random_state(foreign.big_vision_shapes(stacked=False))
    found = reference.outputs("big_vision", state, {}, *foreign.inputs())
    image, text, logits = big_vision_outputs(state, *foreign.inputs())
    np.testing.assert_allclose(found.image, image, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.text, text, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.logits, logits, rtol=0, atol=2e-4)


def test_big_vision_reads_stacked_layers_and_bare_keys():
    apart = foreign.random_state(foreign.big_vision_shapes(stacked=False))
    stacked = {key: array for key, array in apart.items() if "encoderblock" not in key}
    for key in apart:
        if "encoderblock_0" in key:
            layers = [apart[key], apart[key.replace("encoderblock_0", "encoderblock_1")]]
            stacked[key.replace("encoderblock_0", "encoderblock")] = np.stack(layers)
    bare = {key.removeprefix("params/"): array for key, array in stacked.items()}
    expected = reference.outputs("big_vision", apart, {}, *foreign.inputs())
    for state in (stacked, bare):
        near(reference.outputs("big_vision", state, {}, *foreign.inputs()), expected, atol=1e-12)
    half = apart["params/txt/pos_embedding"] / 2  # early checkpoints have positions in two places
    twice = apart | {"params/txt/pos_embedding": half, "params/txt/Encoder_0/pos_embedding": half, "opt/0": np.ones(1)}
    near(reference.outputs("big_vision", twice, {}, *foreign.inputs()), expected, atol=1e-6)


def test_weights_that_nobody_reads_are_an_error():
    state = foreign.random_state(foreign.big_vision_shapes(stacked=False))
    with pytest.raises(ValueError, match=r"1 of \d+ arrays belong to no part of this layout: \['params/img/new'\]"):
        reference.outputs("big_vision", state | {"params/img/new": np.ones(3)}, {}, *foreign.inputs())
    del state["params/txt/head/bias"]
    with pytest.raises(ValueError, match="no params/txt/head/bias"):
        reference.outputs("big_vision", state, {}, *foreign.inputs())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_cfg": {"pool_type": "avg"}}, "vision_cfg.pool_type is 'avg'; only 'tok'"),
        ({"text_cfg": {"embed_cls": True}}, "text_cfg.embed_cls"),
        ({"text_cfg": {"pool_type": "none"}}, "argmax, eos, first, last"),
        ({"vision_cfg": {"timm_model_name": "resnet50"}}, "only those of SigLIP"),
        (
            {
                "vision_cfg": {
                    "timm_model_name": "vit_base_patch16_siglip_gap_224",
                    "timm_pool": "map",
                    "timm_proj": "none",
                }
            },
            "known are",
        ),
    ],
)
def test_settings_that_change_the_result_are_refused(changes, said):
    shapes = {
        "visual.conv1.weight": (64, 3, 8, 8),
        "visual.class_embedding": (64,),
        "visual.positional_embedding": (17, 64),
    }
    shapes |= {f"visual.{norm}.{part}": (64,) for norm in ("ln_pre", "ln_post") for part in ("weight", "bias")}
    state = foreign.random_state(shapes | {"visual.proj": (64, 24)})
    with pytest.raises(ValueError, match=said):
        reference.outputs("open_clip", state, foreign.open_clip_settings(**changes), *foreign.inputs())
    with pytest.raises(ValueError, match="model_type 'bert'"):
        reference.outputs("huggingface", state, {"model_type": "bert"}, *foreign.inputs())


def test_half_precision_is_read():
    state = foreign.random_state(foreign.big_vision_shapes(stacked=False))
    half = {key: array.astype(np.float16) for key, array in state.items()}
    found = reference.outputs("big_vision", half, {}, *foreign.inputs())
    assert found.image.dtype == np.float64
    near(found, reference.outputs("big_vision", state, {}, *foreign.inputs()), atol=5e-3)


def test_arithmetic():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 8)).astype(np.float32)
    wide = x.astype(np.float64)
    exact = np.vectorize(lambda v: v * 0.5 * (1 + erf(v / 2**0.5)))(wide)
    np.testing.assert_allclose(gelu(x), exact, atol=1e-6)
    assert 1e-5 < np.abs(gelu_tanh(x) - exact).max() < 1e-3
    np.testing.assert_allclose(quick_gelu(x), wide / (1 + np.exp(-1.702 * wide)), atol=1e-6)
    scale, bias = rng.normal(size=(2, 8))
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 0.1) * scale + bias
    np.testing.assert_allclose(layer_norm(x, (scale, bias), 0.1), expected, atol=1e-6)
    q, k, v = rng.normal(size=(3, 2, 5, 8)).astype(np.float32)
    for causal in (False, True):
        expected = np.zeros((2, 5, 8))
        for b, i, h in np.ndindex(2, 5, 2):
            part, seen = slice(4 * h, 4 * h + 4), i + 1 if causal else 5
            weights = np.exp(k[b, :seen, part].astype(np.float64) @ q[b, i, part] / 2)
            expected[b, i, part] = weights @ v[b, :seen, part] / weights.sum()
        np.testing.assert_allclose(attend(q, k, v, heads=2, causal=causal), expected, atol=1e-6)


def test_weights_count_and_scalars():
    state = {f"a.layers.{i}.w": np.ones(1) for i in (0, 1, 10)} | {"a.s": np.array([2.0]), "a.t": np.array(3.0)}
    weights = Weights(state).at("a.")
    assert weights.count(r"layers\.(\d+)\.") == 3
    assert (weights.scalar("s"), weights.scalar("t")) == (2.0, 3.0)
    assert weights["s"].dtype == np.float32
