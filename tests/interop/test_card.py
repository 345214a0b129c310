"""The model card says what the configuration says, and nothing that is not known."""

import dataclasses
import json
import re

import huggingface_hub
import jax
import numpy as np
import pytest
from PIL import Image

from clip_jax.data.digits import DigitsConfig
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.sources import MixtureConfig, Weighted
from clip_jax.data.webdataset import WebDatasetConfig
from clip_jax.evals.protocol import Figure, Outcome
from clip_jax.evals.suite import write_json
from clip_jax.experiment import TrainConfig
from clip_jax.inputs import normalised
from clip_jax.interop import card_tables
from clip_jax.interop.card import Provenance, model_card
from clip_jax.interop.proof import gate
from clip_jax.interop.proof.gate import Difference
from clip_jax.interop.write import TARGETS
from clip_jax.models.clip import CLIPConfig, PreprocessConfig, count_parameters, init_params
from clip_jax.models.presets import preset
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.size import Size
from clip_jax.models.text import TextConfig
from clip_jax.optim import OptimConfig
from clip_jax.tokenizer_file import open_tokenizer
from tests.interop import foreign_models, weights

DIFFERENCE = Difference(
    image=1.5e-7, text=2.5e-7, logits=3.5e-6, cosine=0.99999991, by=("clip_jax in float32", "transformers 5.23.0")
)
RESNET = ResNetConfig(layers=(1, 2, 1, 1), width=16, head_width=32, image_size=64)
SHARDS = tuple(f"/data/private/pairs-{i}.tar" for i in range(20))


def rows(card, section):
    """First cell of each row of a section's table -> the others."""
    body = card.split(f"\n## {section}\n")[1].split("\n## ")[0]
    table = [[cell.strip() for cell in line[1:-1].split("|")] for line in body.splitlines() if line.startswith("|")]
    return {row[0] if len(row) < 4 else tuple(row[:2]): row[1:] for row in table}


def sections(card):
    return re.findall(r"^## (.*)$", card, re.MULTILINE)


def test_a_card_of_weights_alone(small):
    card = model_card("small", "clip_jax", small, Provenance(source="an OpenAI file"))
    assert sections(card) == ["Architecture", "Input", "Where the weights come from", "How to load it"]
    assert "# small\n" in card
    assert "Converted by clip_jax from an OpenAI file." in card
    assert "None" not in card
    assert "learned" not in card
    found = rows(card, "Architecture")
    assert found["layers"] == ["2", "2"]
    assert found["width"] == ["32", "32"]
    assert found["heads"] == ["2", "2"]
    assert found["MLP width"] == ["128", "128"]
    assert found["activation"] == ["gelu", "gelu"]
    assert found["norm"] == ["layer norm, epsilon 1e-05"] * 2
    assert found["attention"] == ["to all patches", "causal"]
    assert found["input"] == ["16 x 16 pixels: 2 x 2 patches of 8 pixels", "8 tokens of a vocabulary of 64"]
    assert found["read at"] == ["a class token", "the highest token id, CLIP's end of text"]
    assert found["projection"] == ["linear", "linear"]
    image, text = (int(number.replace(",", "")) for number in found["parameters"])
    assert image + text + 1 == count_parameters(small)


def test_every_choice_of_the_configuration_changes_the_card(small, monkeypatch):
    # Without the number of parameters, which takes time and hides what else does not change.
    monkeypatch.setattr(card_tables, "size", lambda config: Size(image=0, text=0, parameters=0, stored=0))

    def card(**changes):
        return model_card("x", "clip_jax", dataclasses.replace(small, **changes), Provenance(source="a file"))

    def vision(**changes):
        return card(vision_cfg=dataclasses.replace(small.vision_cfg, **changes))

    def text(**changes):
        return card(text_cfg=dataclasses.replace(small.text_cfg, **changes))

    def prepared(**changes):
        return card(preprocess_cfg=PreprocessConfig(**changes))

    cards = [
        card(),
        card(quick_gelu=True),
        card(embed_dim=8),
        card(init_logit_bias=-10.0),
        vision(layers=3),
        vision(head_width=8),
        vision(mlp_ratio=2.0),
        vision(patch_size=4),
        vision(image_size=24),
        vision(norm_eps=1e-6),
        vision(gelu_approximate="tanh"),
        card(vision_cfg=dataclasses.replace(small.vision_cfg, pool_type="map"), embed_dim=32),
        card(vision_cfg=RESNET),
        text(context_length=9),
        text(vocab_size=65),
        text(heads=4),
        text(layers=1),
        text(mlp_ratio=2.0),
        text(no_causal_mask=True),
        *(text(pool_type=kind, eos_id=9) for kind in ("eos", "last", "first")),
        text(pad_id=3),
        text(proj_bias=True),
        card(text_cfg=dataclasses.replace(small.text_cfg, proj_type="none"), embed_dim=32),
        card(embed_dim=32),
        text(norm_eps=1e-6),
        text(gelu_approximate="tanh"),
        text(tokenizer="/home/someone/tokenizer.json"),
        *(text(tokenizer="t.json", tokenizer_clean=how) for how in ("none", "whitespace", "lower", "canonicalize")),
        prepared(mean=(0.5, 0.5, 0.5)),
        prepared(std=(0.5, 0.5, 0.5)),
        prepared(interpolation="bilinear"),
        prepared(resize_mode="squash"),
        prepared(resize_mode="longest"),
        prepared(resize_mode="longest", fill_color=9),
    ]
    assert len(set(cards)) == len(cards)
    assert not any("/home" in each for each in cards)


def test_a_resnets_parameters_are_those_that_learn():
    config = CLIPConfig(
        embed_dim=8, vision_cfg=RESNET, text_cfg=TextConfig(vocab_size=16, context_length=4, width=8, heads=1, layers=1)
    )
    found = rows(model_card("x", "open_clip", config, Provenance(source="a file")), "Architecture")
    assert found["layers"] == ["1 + 2 + 1 + 1 bottlenecks", "1"]
    image, text = (int(number.replace(",", "")) for number in found["parameters"])
    assert image + text + 1 == count_parameters(config)


def test_known_sizes():
    """OpenAI's ViT-B/32 has 151,277,313 parameters."""
    found = rows(model_card("x", "openai", preset("ViT-B-32-quickgelu"), Provenance(source="a file")), "Architecture")
    assert found["parameters"] == ["87,849,216", "63,428,096"]
    assert found["activation"] == ["quick_gelu", "quick_gelu"]


def test_learned_scale_and_bias(small):
    said = model_card("x", "clip_jax", small, Provenance(source="a file", logit_scale=100.0))
    assert "`logit_scale * cosine`, with the learned logit_scale 100.0000." in said
    siglip = dataclasses.replace(small, init_logit_bias=-10.0)
    said = model_card("x", "clip_jax", siglip, Provenance(source="a file", logit_scale=117.33, logit_bias=-12.9324))
    assert "with the learned logit_scale 117.3300 and logit_bias -12.9324." in said
    assert "- siglip\n" in said


def test_a_run(small, tmp_path):
    source = MixtureConfig(
        parts=(
            Weighted(weight=3, source=WebDatasetConfig(urls=SHARDS, name="pairs")),
            Weighted(weight=1, source=GlyphsConfig(size=32)),
        )
    )
    run = TrainConfig(
        model=small,
        source=source,
        steps=2000,
        batch_size=512,
        init_from="/home/someone/runs/before",
        optim=OptimConfig(name="lion", lr=3e-4, ema_decay=0.99, freeze=("visual/.*",)),
        origin="configs/quickstart.py",
    )
    outcomes = {
        "digits": Outcome(figures={"top1": Figure(value=0.5, chance=0.1)}, counts={"images": 10}),
        "pairs": Outcome(figures={"rank": Figure(value=0.25, chance=None)}, counts={}),
        "gallery": Outcome(figures={}, counts={"images": 500}),
    }
    write_json(tmp_path / "evaluation.json", outcomes, {"run": "r", "step": 1500, "weights": "ema"})
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    card = model_card("r", "clip_jax", small, Provenance(source="a run", run=run, evaluation=evaluation))
    assert sections(card)[2:4] == ["Training", "Evaluation"]
    training = rows(card, "Training")
    assert training["steps"] == ["2,000"]
    assert training["batch"] == ["512 pairs"]
    assert training["pairs in all steps"] == ["1,024,000"]
    assert training["optimizer"] == ["lion, b1 0.9, b2 0.98, weight decay 0.2"]
    assert training["learning rate"] == ["0.0003, cosine, 2,000 steps of warmup"]
    assert training["averaged weights"] == ["decay 0.99"]
    assert training["frozen"] == ["visual/.*"]
    assert training["started from"] == ["before"]
    assert training["objective"] == ["1 x info_nce"]
    assert training["data"][0].startswith("mixture of 3 x (webdataset: ")
    assert "urls pairs-0.tar, pairs-1.tar, " in training["data"][0]
    assert "pairs-7.tar and 12 more, name pairs" in training["data"][0]
    assert "1 x (glyphs: split train, size 32" in training["data"][0]
    for private in ("/data", "/home"):
        assert private not in card
    figures = rows(card, "Evaluation")
    assert figures["digits", "top1"] == ["top1", "50.00", "10.00"]
    assert figures["pairs", "rank"] == ["rank", "25.00", ""]
    assert "gallery" not in card
    assert "Measured by clip_jax at step 1,500, with averaged weights." in card


def test_what_says_nothing_is_left_out(small):
    run = TrainConfig(model=small, source=DigitsConfig(), batch_size=8)
    empty = {"about": {"step": 1, "weights": "raw"}, "evaluations": {"gallery": {"figures": {}, "counts": {}}}}
    card = model_card("x", "clip_jax", small, Provenance(source="a run", run=run, evaluation=empty))
    assert "Evaluation" not in sections(card)
    assert not {"averaged weights", "frozen", "started from", "configuration"} & rows(card, "Training").keys()


def test_the_proof(small):
    card = model_card("x", "huggingface", small, Provenance(source="a file", difference=DIFFERENCE))
    found = rows(card, "Where the weights come from")
    assert found["elements of image embeddings"] == ["1.5e-07"]
    assert found["elements of text embeddings"] == ["2.5e-07"]
    assert found["logits"] == ["3.5e-06"]
    assert "is 0.9999999. Computed by clip_jax in float32 and by transformers 5.23.0." in card


@pytest.mark.parametrize(
    ("layout", "library", "code"),
    [
        ("clip_jax", "clip_jax", None),
        ("openai", "clip_jax", 'clip.load("my model/model.pt", device="cpu", jit=False)'),
        ("open_clip", "open_clip", 'open_clip.create_model_and_transforms("local-dir:my model")'),
        ("huggingface", "transformers", 'AutoModel.from_pretrained("my model")'),
    ],
)
def test_front_matter_and_loading(small, layout, library, code):
    card = model_card("my model", layout, small, Provenance(source="a | file\nof two lines"))
    data = huggingface_hub.ModelCard(card).data.to_dict()
    assert data == {
        "library_name": library,
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "image-text-retrieval"],
    }
    assert 'clip_jax.load("my model")' in card
    assert card.count("```python") == (1 if code is None else 2)
    assert code is None or code in card
    assert "from a \\| file of two lines." in card
    assert "NAME" not in card
    for snippet in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        compile(snippet, "card", "exec")
    for table in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_params_of_the_small_model_agree_with_its_card(small):
    params = jax.eval_shape(lambda key: init_params(small, key), jax.random.key(0))
    found = rows(model_card("x", "clip_jax", small, Provenance(source="a file")), "Architecture")["parameters"]
    sizes = [sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params[tower])) for tower in ("visual", "text")]
    assert found == [f"{size:,}" for size in sizes]


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_snippet_for_transformers_runs_and_gives_our_logits(tmp_path, monkeypatch, family):
    foreign_models.imported("huggingface")
    config = {"clip": weights.VIT, "siglip": weights.SIGLIP}[family]
    text = dataclasses.replace(
        config.text_cfg, vocab_size=49408, pad_id=0, context_length=16, tokenizer="", tokenizer_clean="none"
    )
    config = dataclasses.replace(config, text_cfg=text)
    params = weights.random_params(config)
    (tmp_path / "model").mkdir()
    TARGETS["huggingface"](tmp_path / "model", config, params, {})
    size = config.vision_cfg.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)  # the processor leaves it as it is
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", format="PNG")
    monkeypatch.chdir(tmp_path)
    card = model_card("model", "huggingface", config, Provenance(source="a file"))
    snippet = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[-1]
    found = {}
    exec(snippet, found)
    tokens = open_tokenizer(text)(["a red house", "a cat"])
    outputs = gate.ours(config, params, normalised(pixels[None], config.preprocess_cfg), tokens)
    np.testing.assert_allclose(found["logits"].detach().numpy(), outputs.logits, rtol=0, atol=1e-4)


def test_what_users_of_transformers_should_know():
    cards = {
        (layout, family): model_card("x", layout, config, Provenance(source="a file"))
        for layout in ("huggingface", "open_clip")
        for family, config in (("clip", weights.VIT), ("siglip", weights.SIGLIP))
    }
    assert [key for key, card in cards.items() if "sees the padding" in card] == [("huggingface", "siglip")]
    assert [key for key, card in cards.items() if "rounds the crop's corner down" in card] == [("huggingface", "clip")]
