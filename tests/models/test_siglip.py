"""SigLIP's towers against NumPy and transformers, its training by the sigmoid loss, and its presets."""

import contextlib
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax import sharding, tree
from clip_jax.checkpoint import CheckpointConfig, Checkpoints
from clip_jax.experiment import Plan, TrainConfig
from clip_jax.models import presets
from clip_jax.models.clip import (
    MAX_LOGIT_SCALE,
    CLIPConfig,
    PreprocessConfig,
    abstract_params,
    adapt_positions,
    bind,
    init_params,
    noise_for,
)
from clip_jax.models.layers import Running
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig, drop_patches
from clip_jax.objectives import ObjectiveConfig
from clip_jax.optim import OptimConfig, decay_mask
from clip_jax.sharding import MeshConfig
from clip_jax.state import new_state
from tests.conftest import QUICK_COMPILE, compiled_step, random_batch
from tests.interop.foreign_models import imported
from tests.models import reference
from tests.models.test_towers import encode, normalized

# Patches of 8 in 20 pixels: the last four of each row and column are not seen, as in ViT-SO400M-14-SigLIP-384.
CONFIG = CLIPConfig(
    embed_dim=32,
    vision_cfg=VisionConfig(
        **{"layers": 2, "width": 32, "head_width": 16, "mlp_ratio": 3.0, "patch_size": 8, "image_size": 20},
        **{"pool_type": "map", "norm_eps": 1e-6, "gelu_approximate": "tanh"},
    ),
    text_cfg=TextConfig(
        **{"context_length": 8, "vocab_size": 64, "width": 24, "heads": 2, "layers": 2, "mlp_ratio": 3.0},
        **{"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "pad_id": 1},
        **{"norm_eps": 1e-6, "gelu_approximate": "tanh"},
    ),
    preprocess_cfg=PreprocessConfig(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize_mode="squash"),
    init_logit_scale=math.log(10),
    init_logit_bias=-10.0,
)


def with_towers(config: CLIPConfig, *, vision: Any = None, text: Any = None) -> CLIPConfig:
    return dataclasses.replace(
        config,
        vision_cfg=dataclasses.replace(config.vision_cfg, **(vision or {})),
        text_cfg=dataclasses.replace(config.text_cfg, **(text or {})),
    )


def roughened(params: Any) -> Any:
    """Parameters away from their initial zeros and ones, so that every bias and every scale counts."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(5)
    noisy = [np.asarray(leaf) + 0.1 * rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, noisy)


@functools.cache
def rough_params(config: CLIPConfig) -> Any:
    return roughened(jax.jit(lambda key: init_params(config, key), compiler_options=QUICK_COMPILE)(jax.random.key(0)))


@pytest.fixture(scope="module")
def rough():
    return rough_params(CONFIG)


@pytest.fixture(scope="module")
def batch():
    """Sixteen random pairs; texts of all lengths, padded with ones."""
    batch = random_batch(CONFIG, 16, seed=0)
    return batch | {"text": np.where(batch["text"] == 0, 1, batch["text"]).astype(np.int32)}


@pytest.fixture(scope="module")
def embedded(rough, batch):
    return encode(CONFIG, rough, batch["image"], batch["text"])


def assert_equals_numpy(config: CLIPConfig, params: Any, batch: Any, found: Any):
    image = reference.image_embeddings(config, params, normalized(config, batch["image"]))
    np.testing.assert_allclose(found[0], image, atol=1e-5)
    np.testing.assert_allclose(found[1], reference.text_embeddings(config, params, batch["text"]), atol=1e-5)


def test_towers_equal_numpy(rough, batch, embedded):
    assert_equals_numpy(CONFIG, rough, batch, embedded)


def test_every_norm_uses_the_config_s_eps_and_every_mlp_its_activation(rough, batch, embedded):
    """An eps as large as the variances, so that a norm with another one shows."""
    other = with_towers(
        CONFIG,
        vision={"norm_eps": 0.5, "gelu_approximate": "none"},
        text={"norm_eps": 0.25, "gelu_approximate": "none"},
    )
    found = encode(other, rough, batch["image"], batch["text"])
    assert_equals_numpy(other, rough, batch, found)
    assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(found, embedded, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        {"pool_type": "eos", "eos_id": 5, "no_causal_mask": False, "proj_bias": False},
        {"pool_type": "first"},
        {"pool_type": "argmax", "no_causal_mask": False},
        {"proj_type": "none", "proj_bias": False, "width": 32},
    ],
    ids=str,
)
def test_text_towers_equal_numpy(batch, text):
    config = with_towers(CONFIG, text=text)
    params = rough_params(config)
    assert ("proj" in params["text"]) == (config.text_cfg.proj_type == "linear")
    tokens = batch["text"].copy()
    tokens[np.arange(16), np.arange(16) % 7] = 5
    tokens[0, :] = 7  # a text without its end is read at its first token
    found = jax.jit(lambda params: bind(config, params).encode_text(tokens), compiler_options=QUICK_COMPILE)(params)
    np.testing.assert_allclose(found, reference.text_embeddings(config, params, tokens), atol=1e-5)


def test_the_first_token_sees_all_of_a_text(rough):
    config = with_towers(CONFIG, text={"pool_type": "first"})
    tokens = np.array([[10, 11, 12, 13, 63, 14, 15, 16]], np.int32)

    def first_number(table):
        return bind(config, rough | {"text": rough["text"] | {"token_embedding": table}}).encode_text(tokens)[0, 0]

    grad = jax.jit(jax.grad(first_number), compiler_options=QUICK_COMPILE)(rough["text"]["token_embedding"])
    assert (np.abs(grad).max(axis=-1)[tokens[0]] > 0).all()


def test_patch_dropout_keeps_positions(rough, batch, embedded):
    config = with_towers(CONFIG, vision={"patch_dropout": 0.5})
    noise = noise_for(config, 16, jax.random.key(3))
    found = encode(config, rough, batch["image"], batch["text"], noise)[0]
    numbers = jnp.broadcast_to(jnp.arange(4, dtype=jnp.float32)[None, :, None], (16, 4, 1))
    kept = np.asarray(drop_patches(numbers, 0.5, noise))[..., 0].astype(int)
    pixels = normalized(config, batch["image"])
    np.testing.assert_allclose(found, reference.image_embeddings(config, rough, pixels, kept), atol=1e-5)
    np.testing.assert_array_equal(encode(config, rough, batch["image"], batch["text"])[0], embedded[0])


def loss_and_grads(config: CLIPConfig, params: Any, batch: Any):
    def loss_of(params):
        clip = bind(config, params)
        image, text = clip.encode_image(batch["image"]), clip.encode_text(batch["text"])
        logits = clip.scale() * image @ text.T + clip.bias()
        return -jax.nn.log_sigmoid(jnp.where(jnp.eye(16, dtype=bool), logits, -logits)).sum() / 16

    return jax.jit(jax.value_and_grad(loss_of), compiler_options=QUICK_COMPILE)(params)


def test_ways_of_running_change_nothing_and_every_parameter_learns(rough, batch):
    loss, grads = loss_and_grads(CONFIG, rough, batch)
    assert not [path for path, grad in tree.leaves_by_path(grads).items() if not np.abs(grad).max() > 0]
    otherwise = dataclasses.replace(CONFIG, running=Running(scan=False, remat="block"))
    found, found_grads = loss_and_grads(otherwise, rough, batch)
    assert found == pytest.approx(float(loss), rel=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (found_grads, grads)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max() + 1e-7)


def test_positions_follow_another_image_size(rough):
    larger = with_towers(CONFIG, vision={"image_size": 32})
    adapted = adapt_positions(rough, larger)
    assert jax.tree.map(jnp.shape, adapted) == jax.tree.map(jnp.shape, abstract_params(larger))
    flat = rough | {"visual": rough["visual"] | {"positional_embedding": np.ones((4, 32), np.float32)}}
    np.testing.assert_allclose(adapt_positions(flat, larger)["visual"]["positional_embedding"], 1, atol=1e-6)
    assert adapt_positions(rough, CONFIG)["visual"]["positional_embedding"] is rough["visual"]["positional_embedding"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dataclasses.replace(CONFIG, embed_dim=16), "^embed_dim 16 is not vision width 32; with pool_type 'map' they"),
        (with_towers(CONFIG, vision={"image_size": 7}), "^image_size 7 has no room for a patch of 8"),
        (
            with_towers(CONFIG, text={"proj_type": "none"}),
            "^embed_dim 32 is not text width 24; with proj_type 'none' they",
        ),
        (with_towers(CONFIG, text={"pad_id": 64}), "^text_cfg.pad_id is 64; ids run from 0 to 63"),
        (with_towers(CONFIG, text={"pool_type": "eos"}), "^text_cfg.eos_id is 49407; ids run from 0 to 63"),
    ],
)
def test_config_errors(config, message):
    with pytest.raises(ValueError, match=message):
        abstract_params(config)


# --- Against transformers


def blocks(state: dict[str, np.ndarray], prefix: str, layers: int) -> dict[str, Any]:
    """Our stacked blocks from Hugging Face's encoder layers."""

    def stack(leaf: str) -> np.ndarray:
        return np.stack([state[f"{prefix}encoder.layers.{i}.{leaf}"] for i in range(layers)])

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": stack(f"{name}.weight"), "bias": stack(f"{name}.bias")}

    def linear(name: str) -> dict[str, np.ndarray]:
        return {"kernel": stack(f"{name}.weight").swapaxes(1, 2), "bias": stack(f"{name}.bias")}

    qkv = [linear(f"self_attn.{letter}_proj") for letter in "qkv"]
    return {
        "ln_1": norm("layer_norm1"),
        "attn": {
            "qkv": {name: np.concatenate([part[name] for part in qkv], axis=-1) for name in ("kernel", "bias")},
            "out": linear("self_attn.out_proj"),
        },
        "ln_2": norm("layer_norm2"),
        "mlp": {"fc": linear("mlp.fc1"), "proj": linear("mlp.fc2")},
    }


def from_huggingface(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Our parameters from a SiglipModel's, by hand: the tables of conversion are not used."""

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def linear(name: str) -> dict[str, np.ndarray]:
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    vision, text = "vision_model.", "text_model."
    patches = state[f"{vision}embeddings.patch_embedding.weight"]  # [D, 3, P, P]
    head = f"{vision}head."
    return {
        "visual": {
            "patch_embedding": {
                "kernel": np.moveaxis(patches, 1, -1).reshape(len(patches), -1).T,
                "bias": state[f"{vision}embeddings.patch_embedding.bias"],
            },
            "positional_embedding": state[f"{vision}embeddings.position_embedding.weight"],
            "blocks": blocks(state, vision, 2),
            "ln_post": norm(f"{vision}post_layernorm"),
            "head": {
                "probe": state[f"{head}probe"][0, 0],
                "qkv": {
                    "kernel": state[f"{head}attention.in_proj_weight"].T,
                    "bias": state[f"{head}attention.in_proj_bias"],
                },
                "out": linear(f"{head}attention.out_proj"),
                "ln": norm(f"{head}layernorm"),
                "mlp": {"fc": linear(f"{head}mlp.fc1"), "proj": linear(f"{head}mlp.fc2")},
            },
        },
        "text": {
            "token_embedding": state[f"{text}embeddings.token_embedding.weight"],
            "positional_embedding": state[f"{text}embeddings.position_embedding.weight"],
            "blocks": blocks(state, text, 2),
            "ln_final": norm(f"{text}final_layer_norm"),
            "proj": linear(f"{text}head"),
        },
        "logit_scale": state["logit_scale"].reshape(()),
        "logit_bias": state["logit_bias"].reshape(()),
    }


def test_equals_transformers(batch):
    torch, transformers = pytest.importorskip("torch"), imported("huggingface")
    shared = {"num_hidden_layers": 2, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"}
    vision = {"hidden_size": 32, "intermediate_size": 96, "num_attention_heads": 2, "image_size": 20, "patch_size": 8}
    text = {"hidden_size": 24, "intermediate_size": 72, "num_attention_heads": 2, "vocab_size": 64}
    text |= {
        "max_position_embeddings": 8,
        "projection_size": 32,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    config = transformers.SiglipConfig(vision_config=vision | shared, text_config=text | shared)
    model = transformers.SiglipModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        pixels = torch.tensor(normalized(CONFIG, batch["image"]).transpose(0, 3, 1, 2), dtype=torch.float32)
        theirs = model(input_ids=torch.tensor(batch["text"], dtype=torch.long), pixel_values=pixels)
    params = from_huggingface({name: value.numpy().copy() for name, value in model.state_dict().items()})
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, abstract_params(CONFIG))
    image, text_rows = encode(CONFIG, params, batch["image"], batch["text"])
    np.testing.assert_allclose(image, theirs.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(text_rows, theirs.text_embeds.numpy(), atol=1e-5)
    logits = np.exp(params["logit_scale"]) * np.asarray(image) @ np.asarray(text_rows).T + params["logit_bias"]
    np.testing.assert_allclose(logits, theirs.logits_per_image.numpy(), rtol=1e-4, atol=1e-4)


# --- Training


def plan_on(devices: int, mesh: MeshConfig, **changes: Any) -> Plan:
    config = TrainConfig(
        model=CONFIG,
        steps=20,
        batch_size=16,
        objective=ObjectiveConfig(weights={"sigmoid": 1.0}),
        mesh=dataclasses.replace(mesh, fsdp_min_size=512),
        optim=OptimConfig(lr=1e-2, schedule="constant", warmup_steps=4),
    )
    first = jax.devices()[:devices]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: first)
        return Plan(dataclasses.replace(config, **changes))


@pytest.fixture(scope="module")
def plans():
    """On one device, and on four by two, with their compiled steps."""
    both = plan_on(1, MeshConfig()), plan_on(8, MeshConfig(data=4, fsdp=2))
    return [(plan, compiled_step(plan)) for plan in both]


def take(plan: Plan, step: Any, params: Any, batch: Any):
    state = new_state(jax.tree.map(jnp.asarray, params), plan.tx, ema=False)
    return step(jax.device_put(state, plan.shardings), sharding.to_global(batch, plan.mesh))


def test_a_step_on_one_device_is_one_on_eight(plans, rough, batch):
    (one, metrics), (eight, metrics8) = (take(*plan, rough, batch) for plan in plans)
    image = reference.image_embeddings(CONFIG, rough, normalized(CONFIG, batch["image"]))
    text = reference.text_embeddings(CONFIG, rough, batch["text"])
    scale, bias = float(np.exp(rough["logit_scale"])), float(rough["logit_bias"])
    loss, grads = reference.sigmoid_pairs(image, text, scale, bias)
    for found in (metrics, metrics8):
        assert found["loss"] == found["sigmoid"] == pytest.approx(loss, rel=1e-5)
        assert found["logit_bias"] == pytest.approx(bias)
        assert found["logit_scale"] == pytest.approx(scale)
        assert found["grad_norm"] == pytest.approx(float(metrics["grad_norm"]), rel=1e-5)
    for path, leaf in tree.leaves_by_path(one.params).items():
        assert np.abs(leaf - tree.leaves_by_path(rough)[path]).max() > 0, path
    for a, b in zip(jax.tree.leaves(one.opt_state), jax.tree.leaves(eight.opt_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())  # moments of the gradient
    rate = 1e-2 / 4
    assert one.params["logit_bias"] == pytest.approx(bias - rate * np.sign(grads[3]), abs=rate / 100)  # no decay in it
    assert not decay_mask(one.params)["logit_bias"]
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(eight.params))


def test_the_scale_of_a_model_with_bias_is_free(plans, rough, batch):
    high = rough | {"logit_scale": np.float32(5)}
    after, metrics = take(*plans[0], high, batch)
    assert metrics["skipped"] == 0
    assert after.params["logit_scale"] > MAX_LOGIT_SCALE


def test_the_bias_is_checkpointed(plans, rough, batch, tmp_path):
    plan, step = plans[0]
    after, _ = take(plan, step, rough, batch)
    with contextlib.closing(Checkpoints(tmp_path, CheckpointConfig())) as checkpoints:
        checkpoints.save(after, {})
        checkpoints.wait()
        found = checkpoints.restore(plan.state)
    assert found is not None
    assert found.params["logit_bias"] == after.params["logit_bias"] != rough["logit_bias"]


def test_a_model_without_bias_is_refused_before_training():
    with pytest.raises(ValueError, match=r"'sigmoid' needs a model with logit_bias.*set model\.init_logit_bias=-10"):
        plan_on(1, MeshConfig(), model=dataclasses.replace(CONFIG, init_logit_bias=None))


# --- Presets

# Parameters of open_clip's models of these names.
COUNTS = {
    "ViT-B-16-SigLIP": 203_155_970,
    "ViT-B-16-SigLIP-256": 203_202_050,
    "ViT-B-16-SigLIP-384": 203_447_810,
    "ViT-B-16-SigLIP-512": 203_791_874,
    "ViT-B-16-SigLIP-i18n-256": 370_626_050,
    "ViT-L-16-SigLIP-256": 652_150_786,
    "ViT-L-16-SigLIP-384": 652_478_466,
    "ViT-SO400M-14-SigLIP": 877_360_306,
    "ViT-SO400M-14-SigLIP-378": 877_960_498,
    "ViT-SO400M-14-SigLIP-384": 877_960_498,
    "ViT-SO400M-16-SigLIP-i18n-256": 1_127_430_706,
    "ViT-B-32-SigLIP2-256": 376_856_066,
    "ViT-B-16-SigLIP2": 375_187_970,
    "ViT-B-16-SigLIP2-256": 375_234_050,
    "ViT-B-16-SigLIP2-384": 375_479_810,
    "ViT-B-16-SigLIP2-512": 375_823_874,
    "ViT-L-16-SigLIP2-256": 881_526_786,
    "ViT-L-16-SigLIP2-384": 881_854_466,
    "ViT-L-16-SigLIP2-512": 882_313_218,
    "ViT-SO400M-14-SigLIP2": 1_135_463_602,
    "ViT-SO400M-14-SigLIP2-378": 1_136_008_498,
    "ViT-SO400M-16-SigLIP2-256": 1_135_670_962,
    "ViT-SO400M-16-SigLIP2-384": 1_136_039_602,
    "ViT-SO400M-16-SigLIP2-512": 1_136_555_698,
    "ViT-gopt-16-SigLIP2-256": 1_871_393_906,
    "ViT-gopt-16-SigLIP2-384": 1_871_885_426,
}


def test_presets():
    assert {name: tree.count(abstract_params(presets.preset(name))) for name in COUNTS} == COUNTS
    assert {name for name in presets.NAMES if "SigLIP" in name} == set(COUNTS)
    for name in COUNTS:
        config = presets.preset(name)
        assert config.preprocess_cfg == CONFIG.preprocess_cfg
        assert (config.init_logit_scale, config.init_logit_bias) == (math.log(10), -10)
        assert config.text_cfg.tokenizer_clean == "canonicalize"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COUNTS))
def test_presets_are_open_clip_s(name):
    torch, open_clip = pytest.importorskip("torch"), imported("open_clip")
    given = open_clip.get_model_config(name)
    with torch.device("meta"):
        theirs = open_clip.CustomTextCLIP(**{key: value for key, value in given.items() if key != "custom_text"})
    assert sum(parameter.numel() for parameter in theirs.parameters()) == COUNTS[name]
    ours, trunk, text = presets.preset(name), theirs.visual.trunk, theirs.text
    vision: Any = ours.vision_cfg
    block, text_block = trunk.blocks[0], text.transformer.resblocks[0]
    gelu = {"none": "GELU(approximate='none')", "tanh": "GELUTanh()"}[vision.gelu_approximate]
    assert {str(block.mlp.act), str(trunk.attn_pool.mlp.act)} == {gelu}
    assert {vision.norm_eps} == {norm.eps for norm in (block.norm1, block.norm2, trunk.norm, trunk.attn_pool.norm)}
    assert vision.width // vision.head_width == block.attn.num_heads == trunk.attn_pool.num_heads
    assert (vision.layers, vision.image_size) == (len(trunk.blocks), trunk.patch_embed.img_size[0])
    assert vision.patch_size == trunk.patch_embed.patch_size[0]
    cfg = ours.text_cfg
    assert str(text_block.mlp.gelu) == f"GELU(approximate='{cfg.gelu_approximate}')"
    assert {cfg.norm_eps} == {text_block.ln_1.eps, text_block.ln_2.eps, text.ln_final.eps}
    assert (cfg.heads, cfg.layers) == (text_block.attn.num_heads, len(text.transformer.resblocks))
    assert (cfg.context_length, cfg.vocab_size) == (text.context_length, text.vocab_size)
    assert (cfg.pool_type, cfg.no_causal_mask) == (text.pool_type, text.attn_mask is None)
    assert (cfg.proj_type == "none") == (text.text_projection is None)
    assert ours.init_logit_bias == float(given["init_logit_bias"])
    assert given["text_cfg"]["tokenizer_kwargs"] == {"clean": cfg.tokenizer_clean}
