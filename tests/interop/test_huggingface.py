"""Hugging Face's layout against transformers: weights both ways, configurations, whole folders, and a loss."""

import dataclasses
import functools
import json
import math
import re
from typing import Any

import jax
import numpy as np
import pytest

from clip_jax import tree
from clip_jax.data.images import preprocess
from clip_jax.interop.files import tensors
from clip_jax.interop.layouts import huggingface, huggingface_config, huggingface_files, huggingface_images
from clip_jax.interop.rules import from_theirs, to_theirs
from clip_jax.losses.contrastive import info_nce
from clip_jax.losses.pairs import Pairs
from clip_jax.models.clip import CLIPConfig, bind
from clip_jax.models.presets import NAMES, preset
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig
from clip_jax.tokenizer_file import open_tokenizer
from clip_jax.writers import write_json
from tests.conftest import QUICK_COMPILE
from tests.interop import foreign_models, weights
from tests.interop.foreign_models import clip_settings, siglip_settings
from tests.interop.weights import RESNET, SIGLIP, VIT, abstract_params, numbered, random_params

CAPTIONS = [
    "a red house",
    "Two cats, asleep on a sofa; it's raining outside!",
    "Café à Zürich: naïve façade №5 😀👍🏽",
    "日本語の写真 and Привет",
    "a very long caption " * 20,
]
FAMILIES = {
    "clip": clip_settings(),
    "clip-gelu": clip_settings("gelu", eps=1e-6),
    "clip-legacy-eos": clip_settings("gelu_pytorch_tanh", eos=huggingface_config.LEGACY_EOS),
    "siglip": siglip_settings(),
    "siglip-gelu": siglip_settings()
    | {
        name: siglip_settings()[name] | {"hidden_act": act}
        for name, act in (("text_config", "gelu"), ("vision_config", "gelu_pytorch_tanh"))
    },
}
OURS = {
    "clip": dataclasses.replace(VIT, text_cfg=dataclasses.replace(VIT.text_cfg, pool_type="eos", eos_id=63)),
    "clip-argmax": dataclasses.replace(VIT, quick_gelu=False),
    "siglip": SIGLIP,
}


@functools.cache
def forward(config: CLIPConfig) -> Any:
    """Unit embeddings f32[B, E] of images and texts, logits of images by texts, the factor on cosines."""

    def run(params: Any, images: jax.Array, tokens: jax.Array):
        model = bind(config, params)
        image, text = model.encode_image(images), model.encode_text(tokens)
        return image, text, model.scale() * (image @ text.T) + model.bias(), model.scale()

    return jax.jit(run, compiler_options=QUICK_COMPILE)


def encoded(config: CLIPConfig, params: Any, images: np.ndarray, tokens: np.ndarray, dtype: Any = "float32"):
    """The first three."""
    neutral = dataclasses.replace(config.text_cfg, tokenizer="", tokenizer_clean="none", pad_id=0)
    config = dataclasses.replace(config, dtype=dtype, text_cfg=neutral)
    return [np.asarray(x) for x in forward(config)(params, images, tokens)[:3]]


def theirs_encoded(model: Any, images: np.ndarray, tokens: np.ndarray):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        out = model.eval()(
            input_ids=torch.tensor(np.asarray(tokens), dtype=torch.long),
            pixel_values=torch.tensor(np.array(images.transpose(0, 3, 1, 2))),
        )
    return tuple(x.numpy() for x in (out.image_embeds, out.text_embeds, out.logits_per_image))


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    for name, a, b, allowed in zip(
        ("image", "text", "logits"), ours, theirs, (tolerance, tolerance, 100 * tolerance), strict=True
    ):
        assert np.abs(a - b).max() < allowed, (name, np.abs(a - b).max())


def loaded(settings: dict[str, Any], seed: int = 0):
    """A model of transformers with weights that all matter, and the same as ours."""
    foreign_models.imported("huggingface")
    torch = pytest.importorskip("torch")
    model = foreign_models.transformers_model(settings)
    state = foreign_models.state_of(model, seed)
    model.load_state_dict({key: torch.tensor(array) for key, array in state.items()})
    config = huggingface.from_json(settings, {})
    params = from_theirs(huggingface.rules(config), state, abstract_params(config), ignore=huggingface.IGNORE)
    return model, state, config, params


@pytest.mark.parametrize("family", FAMILIES)
def test_their_weights_give_their_numbers(family):
    model, state, config, params = loaded(FAMILIES[family])
    images, tokens = foreign_models.inputs()
    theirs = theirs_encoded(model, images, tokens)
    assert_same(encoded(config, params, images, tokens), theirs)
    assert len({row.tobytes() for row in theirs[1].round(3)}) == len(tokens), "the texts must differ"
    back = to_theirs(huggingface.rules(config), params)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key].reshape(state[key].shape), state[key]) for key in state)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_bf16_strays_no_further_than_theirs(family):
    """Cosines with their f32 embeddings; PyTorch's own in bf16 are 0.9999, a little less or more."""
    torch = pytest.importorskip("torch")
    model, _, config, params = loaded(FAMILIES[family])
    images, tokens = foreign_models.inputs()
    exact = theirs_encoded(model, images, tokens)
    with torch.no_grad():
        half = model.to(torch.bfloat16)(
            input_ids=torch.tensor(tokens, dtype=torch.long),
            pixel_values=torch.tensor(np.array(images.transpose(0, 3, 1, 2))).to(torch.bfloat16),
        )
    ours = encoded(config, params, images, tokens, "bfloat16")
    for mine, theirs, right in zip(ours, (half.image_embeds, half.text_embeds), exact, strict=False):
        strayed = [1 - (x * right).sum(-1) / np.linalg.norm(x, axis=-1) for x in (mine, theirs.float().numpy())]
        assert strayed[0].mean() < 1.3 * strayed[1].mean()
        assert strayed[0].max() < 3e-4


@pytest.mark.parametrize("family", OURS)
def test_our_weights_give_our_numbers(family):
    config = OURS[family]
    foreign_models.imported("huggingface")
    torch = pytest.importorskip("torch")
    params = random_params(config)
    settings = huggingface.to_json(config)
    model = foreign_models.transformers_model(settings)
    state = to_theirs(huggingface.rules(config), params)
    model.load_state_dict({key: torch.tensor(np.array(array)) for key, array in state.items()}, strict=True)
    images, tokens = weights.inputs(config)
    assert_same(encoded(config, params, images, tokens), theirs_encoded(model, images, tokens))


@pytest.mark.parametrize("family", OURS)
def test_a_round_trip_changes_no_bit(family):
    config = OURS[family]
    table = huggingface.rules(config)
    for params in (random_params(config), numbered(config)):
        there = {key: np.array(array) for key, array in to_theirs(table, params).items()}
        back = tree.leaves_by_path(from_theirs(table, there, abstract_params(config)))
        assert all(np.array_equal(back[path], leaf) for path, leaf in tree.leaves_by_path(params).items())


def test_old_buffers_scalars_and_half_precision_are_read():
    config = OURS["siglip"]
    state = {key: np.array(array) for key, array in to_theirs(huggingface.rules(config), random_params(config)).items()}
    old = {f"{tower}_model.embeddings.position_ids": np.arange(6)[None] for tower in ("text", "vision")}
    odd = state | old | {"logit_scale": state["logit_scale"].reshape(()), "logit_bias": state["logit_bias"].reshape(())}
    for given, dtype in (
        (odd, np.float32),
        ({key: array.astype(np.float16) for key, array in odd.items()}, np.float16),
    ):
        found = from_theirs(huggingface.rules(config), given, abstract_params(config), ignore=huggingface.IGNORE)
        probe = state["vision_model.head.probe"].reshape(-1).astype(dtype).astype(np.float32)
        assert np.array_equal(found["visual"]["head"]["probe"], probe)


def test_the_loss_of_a_batch_is_theirs():
    """What a fine-tuning run has at step 0."""
    torch = pytest.importorskip("torch")
    model, _, config, params = loaded(FAMILIES["clip"])
    images, tokens = foreign_models.inputs()
    with torch.no_grad():
        theirs = model.eval()(
            input_ids=torch.tensor(tokens, dtype=torch.long),
            pixel_values=torch.tensor(np.array(images.transpose(0, 3, 1, 2))),
            return_loss=True,
        ).loss.item()
    image, text, _, scale = forward(config)(params, images, tokens)
    ours = info_nce(Pairs(image, text, scale))
    assert theirs > 0.1
    assert abs(float(ours) - theirs) < 2e-5 * theirs


def written(folder: Any, config: CLIPConfig, params: Any) -> None:
    """A folder as `clip-jax convert --to huggingface` writes it."""
    huggingface.check(config)
    write_json(folder / "config.json", huggingface.to_json(config))
    huggingface_files.write_side_files(folder, config)
    tensors.write(folder / "model.safetensors", to_theirs(huggingface.rules(config), params), {})


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_a_written_folder_opens_there_and_gives_our_numbers(tmp_path, mode):
    """Weights, settings, image processor and tokenizer by from_pretrained; a photograph and captions."""
    transformers = foreign_models.imported("huggingface")
    image = pytest.importorskip("sklearn.datasets").load_sample_image("china.jpg")[:, :600].copy()  # see images.to_json
    config = dataclasses.replace(
        huggingface.from_json(clip_settings("gelu"), {}),
        preprocess_cfg=dataclasses.replace(VIT.preprocess_cfg, resize_mode=mode, interpolation="bilinear"),
    )
    params = random_params(config)
    written(tmp_path, config, params)
    model = transformers.CLIPModel.from_pretrained(tmp_path, local_files_only=True)
    processor = transformers.CLIPProcessor.from_pretrained(tmp_path, local_files_only=True)
    given = processor(text=CAPTIONS, images=image, padding="max_length", truncation=True, return_tensors="pt")
    size = config.vision_cfg.image_size
    squares = preprocess(image, size, resize_mode=mode, interpolation="bilinear")[None]
    tokens = open_tokenizer(config.text_cfg)(CAPTIONS)
    ours = encoded(config, params, squares, tokens)
    pixels = given["pixel_values"].numpy().transpose(0, 2, 3, 1)
    grey = np.abs(
        pixels * np.float32(config.preprocess_cfg.std) * 255 - (squares / 255.0 - config.preprocess_cfg.mean) * 255
    )
    assert grey.max() < 1.01, "one grey level"
    assert_same(
        ours, theirs_encoded(model, pixels, given["input_ids"].numpy()), 2e-2
    )  # of which the grey level is the most
    assert_same(encoded(config, params, pixels, tokens), theirs_encoded(model, pixels, given["input_ids"].numpy()))


def test_a_siglip_folder_opens_there(tmp_path):
    transformers = foreign_models.imported("huggingface")
    params = random_params(SIGLIP)
    tokenizer = tmp_path / "source.json"
    unigram(tokenizer)
    config = dataclasses.replace(SIGLIP, text_cfg=dataclasses.replace(SIGLIP.text_cfg, tokenizer=str(tokenizer)))
    folder = tmp_path / "model"
    folder.mkdir()
    written(folder, config, params)
    model = transformers.SiglipModel.from_pretrained(folder, local_files_only=True)
    processor = transformers.SiglipProcessor.from_pretrained(folder, local_files_only=True)
    image = pytest.importorskip("sklearn.datasets").load_sample_image("flower.jpg")
    texts = ["A Cat, a bat!", "cat", "a_b; tab " * 9, ""]
    given = processor(text=texts, images=image, padding="max_length", truncation=True, return_tensors="pt")
    assert given.keys() == {"input_ids", "pixel_values"}, "an attention mask would change what SigLIP sees"
    assert np.array_equal(given["input_ids"].numpy(), open_tokenizer(config.text_cfg)(texts))
    pixels = given["pixel_values"].numpy().transpose(0, 2, 3, 1)
    ours = encoded(config, params, pixels, open_tokenizer(config.text_cfg)(texts))
    assert_same(ours, theirs_encoded(model, pixels, given["input_ids"].numpy()))
    read = huggingface_files.tokenizer_of(folder, huggingface.from_json(huggingface.to_json(config), {}))
    assert (read.tokenizer_clean, read.pad_id) == ("canonicalize", 1)
    assert np.array_equal(open_tokenizer(read)(texts), given["input_ids"].numpy())


def unigram(path: Any) -> None:
    """A tokenizer.json of SentencePiece's kind: 40 tokens, an end of text and padding of id 1."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyzAB.,!"]
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("\u2581", -2.0), ("\u2581cat", -1.0), ("\u2581a", -1.5), *letters]
    engine = Tokenizer(models.Unigram(pieces, unk_id=0))
    engine.normalizer = normalizers.NFKC()
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    engine.save(str(path))


# --- configurations


@pytest.mark.parametrize("model_type", ["clip", "siglip"])
def test_what_a_file_leaves_out_is_transformers_default(model_type):
    transformers = foreign_models.imported("huggingface")
    theirs = {"clip": transformers.CLIPConfig, "siglip": transformers.SiglipConfig}[model_type]().to_dict()
    full, empty = (huggingface.from_json(given, {}) for given in (theirs, {"model_type": model_type}))
    assert full == empty
    assert empty.quick_gelu == (model_type == "clip")


def test_old_files_say_a_tower_twice_and_the_twin_decides():
    transformers = foreign_models.imported("huggingface")
    old = clip_settings() | {
        "text_config_dict": {"hidden_size": 32, "num_attention_heads": 2, "hidden_act": "gelu"},
        "vision_config_dict": {"hidden_size": 32, "num_attention_heads": 2, "hidden_act": "gelu", "image_size": 64},
    }
    theirs = transformers.CLIPConfig.from_dict(old).to_dict()
    assert huggingface.from_json(old, {}) == huggingface.from_json(theirs, {})
    assert huggingface.from_json(old, {}).text_cfg.width == 32
    nothing = clip_settings() | {"text_config_dict": None, "vision_config_dict": None}
    assert huggingface.from_json(nothing, {}) == huggingface.from_json(clip_settings(), {})


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(preset(name).vision_cfg, VisionConfig)])
def test_every_preset_comes_back(name):
    config = preset(name)
    try:
        huggingface.check(config)
    except ValueError as error:
        pytest.skip(str(error))
    side = huggingface_images.to_json(
        config.preprocess_cfg,
        config.vision_cfg.image_size,
        "siglip" if config.vision_cfg.pool_type == "map" else "clip",
    )
    back = huggingface.from_json(huggingface.to_json(config), side)
    for tower, other in ((back.vision_cfg, config.vision_cfg), (back.text_cfg, config.text_cfg)):
        assert int(tower.width * tower.mlp_ratio) == int(other.width * other.mlp_ratio)
    same = {"tokenizer": "", "tokenizer_clean": "none", "mlp_ratio": 4.0, "pool_type": "last"}
    assert dataclasses.replace(back.text_cfg, **same) == dataclasses.replace(config.text_cfg, **same)
    assert dataclasses.replace(back.vision_cfg, mlp_ratio=4.0) == dataclasses.replace(config.vision_cfg, mlp_ratio=4.0)
    assert (back.quick_gelu, back.embed_dim, back.preprocess_cfg) == (
        config.quick_gelu,
        config.embed_dim,
        config.preprocess_cfg,
    )
    assert abstract_params(back) == abstract_params(config)


def test_quick_gelu_and_eos_are_said():
    said = huggingface.to_json(preset("ViT-B-32-quickgelu"))
    assert [said[name]["hidden_act"] for name in ("text_config", "vision_config")] == ["quick_gelu"] * 2
    assert (
        huggingface.to_json(preset("ViT-B-32"))["text_config"] | {"hidden_act": "gelu", "eos_token_id": 49407}
        == (huggingface.to_json(preset("ViT-B-32"))["text_config"])
    )
    assert huggingface.to_json(OURS["clip-argmax"])["text_config"]["eos_token_id"] == 2
    assert huggingface.to_json(OURS["clip"])["text_config"]["eos_token_id"] == 63


@pytest.mark.parametrize("width", [*range(1, 40), 768, 1152, 1408, 1664])
def test_the_ratio_gives_the_width_back(width):
    for hidden in {*range(1, 5 * width, max(1, width // 7)), 4304, 6144, 8192, 3 * width}:
        assert int(width * huggingface_config.mlp_ratio(width, hidden)) == hidden


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, "'bert'"),
        ({"model_type": "siglip2"}, "NaFlex"),
        ({"model_type": "clip_vision_model"}, "image tower"),
        ({"model_type": "chinese_clip"}, "BERT"),
        ({}, "None"),
        ({"model_type": "clip", "text_config": {"hidden_act": "gelu"}}, "quick_gelu for both"),
        ({"model_type": "clip", "text_config": {"hidden_act": "relu"}}, "text_config.hidden_act is 'relu'"),
        ({"model_type": "clip", "text_config": {"eos_token_id": [1, 2]}}, "eos_token_id"),
        ({"model_type": "clip", "text_config": {"vocab_size": 1000}}, "eos_token_id is 49407"),
        ({"model_type": "clip", "text_config": {"hidden_size": "512"}}, "text_config.hidden_size is '512'"),
        ({"model_type": "clip", "text_config": 3}, "text_config is 3"),
        ({"model_type": "clip", "vision_config": {"image_size": [224, 336]}}, "squares"),
        ({"model_type": "clip", "vision_config": {"num_channels": 4}}, "num_channels is 4"),
        ({"model_type": "siglip", "vision_config": {"vision_use_head": False}}, "vision_use_head"),
        ({"model_type": "siglip", "text_config": {"num_attention_heads": 7}}, "multiple of 7 heads"),
    ],
)
def test_a_config_that_ours_cannot_hold(changes, words):
    with pytest.raises(ValueError, match=r"config\.json") as raised:
        huggingface.from_json(changes, {})
    assert words in str(raised.value)


def replaced(config: CLIPConfig, **changes: Any) -> CLIPConfig:
    """With fields of the towers, of the preprocessing or of the model changed."""
    for name in ("text_cfg", "preprocess_cfg"):
        inner = getattr(config, name)
        mine = {key: changes.pop(key) for key in list(changes) if hasattr(inner, key)}
        changes[name] = dataclasses.replace(inner, **mine)
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RESNET, "ResNet"),
        (replaced(VIT, pool_type="first"), "text_cfg.pool_type is 'first'"),
        (replaced(VIT, no_causal_mask=True, proj_bias=True), "text_cfg.proj_bias is True"),
        (replaced(VIT, no_causal_mask=True, proj_bias=True), "text_cfg.no_causal_mask is True"),
        (replaced(VIT, init_logit_bias=-10.0), "init_logit_bias is -10.0"),
        (replaced(VIT, pool_type="eos", eos_id=2), "eos_id is 2"),
        (replaced(VIT, resize_mode="longest"), "resize_mode is 'longest'"),
        (replaced(SIGLIP, no_causal_mask=False), "no_causal_mask is False"),
        (replaced(SIGLIP, pool_type="argmax"), "pool_type is 'argmax'"),
        (replaced(SIGLIP, proj_bias=False), "proj_bias is False"),
        (replaced(SIGLIP, proj_type="none"), "proj_type is 'none'"),
        (replaced(SIGLIP, pad_id=50000), "pad_id is 50000"),
        (replaced(SIGLIP, init_logit_bias=None), "init_logit_bias is None"),
    ],
)
def test_a_model_that_hugging_face_cannot_hold(config, words):
    with pytest.raises(ValueError, match="--to clip_jax holds") as raised:
        huggingface.check(config)
    assert words in str(raised.value)


@pytest.mark.parametrize("family", OURS)
def test_a_model_that_hugging_face_can_hold(family):
    huggingface.check(OURS[family])


# --- image processors


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("model_type", ["clip", "siglip"])
def test_preprocessing_comes_back(mode, interpolation, model_type):
    config = dataclasses.replace(
        VIT.preprocess_cfg, mean=(0.1, 0.2, 0.3), resize_mode=mode, interpolation=interpolation
    )
    assert huggingface_images.from_json(huggingface_images.to_json(config, 32, model_type), 32, model_type) == config


def test_preprocessing_of_old_and_of_absent_files():
    old = {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 336,
        "crop_size": 336,
        "do_center_crop": True,
        "resample": 3,
    }
    assert huggingface_images.from_json(old, 336, "clip") == CLIPConfig().preprocess_cfg
    assert huggingface_images.from_json({}, 336, "clip") == CLIPConfig().preprocess_cfg
    half = huggingface_images.from_json({}, 384, "siglip")
    assert (half.resize_mode, half.mean, half.std) == ("squash", (0.5,) * 3, (0.5,) * 3)
    assert huggingface_images.from_json({"do_normalize": False}, 224, "clip").std == (1.0, 1.0, 1.0)
    assert huggingface_images.from_json({"image_mean": 0.5, "resample": 2}, 224, "clip").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": {"shortest_edge": 256}}, "shortest_edge"),
        ({"size": {"height": 24, "width": 32}}, "size"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "longest_edge"),
        ({"crop_size": {"height": 28, "width": 28}}, "crop_size"),
        ({"do_center_crop": False}, "do_center_crop False"),
        ({"do_resize": False}, "do_resize is False"),
        ({"do_rescale": False}, "do_rescale is False"),
        ({"do_pad": True}, "do_pad is True"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"resample": 0}, "resample is 0"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
    ],
)
def test_a_preprocessing_that_ours_cannot_hold(changes, words):
    given = huggingface_images.to_json(VIT.preprocess_cfg, 32, "clip") | changes
    with pytest.raises(ValueError, match=r"preprocessor_config\.json") as raised:
        huggingface_images.from_json(given, 32, "clip")
    assert words in str(raised.value)


def test_settings_as_transformers_5_writes_them(tmp_path):
    transformers = foreign_models.imported("huggingface")
    config = replaced(huggingface.from_json(clip_settings(), {}), mean=(0.1, 0.2, 0.3))
    huggingface_files.write_side_files(tmp_path, config)
    write_json(tmp_path / "config.json", huggingface.to_json(config))
    transformers.CLIPProcessor.from_pretrained(tmp_path, local_files_only=True).save_pretrained(tmp_path / "again")
    found = huggingface_files.preprocessor_of(tmp_path / "again")
    assert huggingface.from_json(huggingface.to_json(config), found).preprocess_cfg == config.preprocess_cfg
    assert huggingface_files.preprocessor_of(tmp_path) == huggingface_images.to_json(config.preprocess_cfg, 32, "clip")
    (tmp_path / "empty").mkdir()
    assert huggingface_files.preprocessor_of(tmp_path / "empty") == {}


def test_the_scale_is_said():
    assert huggingface.from_json(clip_settings(), {}).init_logit_scale == 2.6592
    assert huggingface.to_json(VIT)["logit_scale_init_value"] == math.log(1 / 0.07)
    assert jax.tree.leaves(abstract_params(SIGLIP)["logit_bias"])


def read_settings(folder: Any) -> TextConfig:
    """All that is read of a folder beside its weights."""
    given = json.loads((folder / "config.json").read_text())
    config = huggingface.from_json(given, huggingface_files.preprocessor_of(folder))
    return huggingface_files.tokenizer_of(folder, config)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", "vision_config.num_attention_heads", 0),
        ("config.json", "text_config.num_attention_heads", True),
        ("config.json", "text_config.hidden_size", "x"),
        ("config.json", "text_config.hidden_size", -64),
        ("config.json", "vision_config.image_size", [[32], [32]]),
        ("config.json", "vision_config.patch_size", 0),
        ("config.json", "text_config.hidden_act", ["gelu"]),
        ("config.json", "projection_dim", "x"),
        ("config.json", "projection_dim", 0),
        ("config.json", "logit_scale_init_value", "x"),
        ("config.json", "model_type", ["clip"]),
        ("preprocessor_config.json", "image_mean", "abc"),
        ("preprocessor_config.json", "image_std", ["a", "b", "c"]),
        ("preprocessor_config.json", "image_std", {"a": 1}),
        ("preprocessor_config.json", "resample", [3]),
        ("preprocessor_config.json", "rescale_factor", "x"),
        ("preprocessor_config.json", "size", "x"),
        ("preprocessor_config.json", "size", [32]),
        ("preprocessor_config.json", "image_processor_type", 3),
        ("tokenizer.json", "model", 5),
        ("tokenizer.json", "model.merges", [5]),
        ("tokenizer.json", "model.merges", {"a": "b"}),
        ("tokenizer.json", "model.vocab", 5),
        ("tokenizer.json", "model.vocab", [5]),
        ("tokenizer.json", "added_tokens", 5),
        ("tokenizer.json", "added_tokens", [5]),
        ("tokenizer.json", "added_tokens", [{"content": "a"}]),
        ("tokenizer_config.json", "pad_token", 5),
        ("tokenizer_config.json", "pad_token", {"content": ["!"]}),
        ("tokenizer_config.json", "tokenizer_class", 5),
        ("tokenizer_config.json", "do_lower_case", "x"),
        ("tokenizer_config.json", "clip_jax_pad_id", "x"),
        ("tokenizer_config.json", "clip_jax_clean", ["lower"]),
    ],
)
def test_a_damaged_file_is_named_with_its_key(tmp_path, file, key, value):
    """In one line, whatever the damage."""
    config = huggingface.from_json(clip_settings(), {})
    write_json(tmp_path / "config.json", huggingface.to_json(config))
    huggingface_files.write_side_files(tmp_path, config)
    if file == "tokenizer.json":
        unigram(tmp_path / file)
    if file == "tokenizer_config.json":  # without our own keys, which come first
        write_json(tmp_path / file, {"tokenizer_class": "CLIPTokenizer"})
    content = json.loads((tmp_path / file).read_text())
    *inner, last = key.split(".")
    functools.reduce(dict.__getitem__, inner, content)[last] = value
    write_json(tmp_path / file, content)
    with pytest.raises(ValueError, match=re.escape(file)) as raised:
        read_settings(tmp_path)
    assert key in str(raised.value)
    assert "\n" not in str(raised.value)
