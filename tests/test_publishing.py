"""Publishing: one folder for all libraries, its card, and the hub without one."""

import dataclasses
import json
import re
import sys
import types

import huggingface_hub
import jax
import numpy as np
import pytest

import clip_jax
from clip_jax import __main__ as entry
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.webdataset import WebDatasetConfig
from clip_jax.evals.agreement import AgreementConfig
from clip_jax.evals.protocol import Figure, Outcome
from clip_jax.evals.suite import write_json
from clip_jax.experiment import TrainConfig
from clip_jax.interop.files import hub
from clip_jax.interop.recognize import open_weights
from clip_jax.interop.write import TARGETS
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import VisionConfig
from clip_jax.plain import to_dict
from clip_jax.publishing import publish
from tests.export.models import params_of

CONFIG = CLIPConfig(
    embed_dim=32,
    quick_gelu=True,
    vision_cfg=VisionConfig(layers=1, width=64, head_width=64, patch_size=16, image_size=32),
    text_cfg=TextConfig(layers=1, width=64, heads=1),
)
OUTCOMES = {
    "digits": Outcome(figures={"top1": Figure(value=0.101, chance=0.1)}, counts={"images": 500}),
    "gallery": Outcome(
        figures={"text_to_image_r1": Figure(value=0.2, chance=0.002)}, counts={"images": 500, "captions": 500}
    ),
    "shapes": Outcome(
        figures={"text_to_image_r1": Figure(value=0.04, chance=0.002)}, counts={"images": 500, "captions": 500}
    ),
    "agreement": Outcome(figures={"overlap_at_20": Figure(value=0.7366, chance=0.04)}, counts={"queries": 500}),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model with OpenAI's settings, which all layouts hold, and another's, which OpenAI's does not."""
    folders = []
    for config in (CONFIG, dataclasses.replace(CONFIG, quick_gelu=False)):
        folders.append(tmp_path_factory.mktemp("model"))
        TARGETS["clip_jax"](folders[-1], config, params_of(config), {})
    return folders


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    file = tmp_path_factory.mktemp("evaluation") / "evaluation.json"
    write_json(file, OUTCOMES, {"model": "small"})
    return file


@pytest.fixture(scope="module")
def published(source, measured, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "small-clip"
    return out, publish(open_weights(source[0]), out, licence="cc-by-4.0", evaluation=measured)


def test_every_layout_is_there_and_proven(published):
    out, done = published
    assert list(done.differences) == ["huggingface", "open_clip", "openai"]
    assert not done.left_out
    assert all(one.logits <= 1e-4 for one in done.differences.values())
    names = {file.name for file in out.iterdir()}
    assert names >= {"model.safetensors", "open_clip_model.safetensors", "model.pt", "tokenizer.json", "README.md"}
    assert names >= {"config.json", "open_clip_config.json", "preprocessor_config.json", "evaluation.json"}
    assert not [name for name in names if name.startswith(".")]


@pytest.mark.parametrize("file", ["", "model.safetensors", "open_clip_model.safetensors", "model.pt"])
def test_the_folder_and_each_of_its_files_are_the_model(source, published, file):
    out, _ = published
    wanted = open_weights(source[0])
    found = open_weights(out / file if file else out)
    for ours, theirs in zip(jax.tree.leaves(wanted.params), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert clip_jax.load(out).encode_text(["a red house"]).shape == (1, 32)


def test_the_card_tells_licence_figures_and_weaknesses(published):
    out, _ = published
    text = (out / "README.md").read_text()
    assert text.startswith("---\nlicense: cc-by-4.0\nlibrary_name: transformers\n")
    assert "| digits | top1 | 10.10 | 10.00 |" in text
    assert "* digits: at chance: top-1 10.1% (chance 10.0%)." in text
    assert "* The weakest above chance: agreement, overlap@20 73.7%, 18 times chance." in text
    assert 'clip.load("small-clip/model.pt"' in text
    assert "local-dir:small-clip" in text
    assert text.count("```python") == 4
    assert json.loads((out / "evaluation.json").read_text())["about"]["model"] == "small"


def test_a_layout_that_cannot_hold_it_is_left_out_and_said(source, tmp_path):
    done = publish(open_weights(source[1]), tmp_path / "out", licence="mit")
    assert list(done.differences) == ["huggingface", "open_clip"]
    text = (tmp_path / "out/README.md").read_text()
    assert re.search(r"Not in openai's layout: .*quick_gelu", text)
    assert "None is known, for nothing was measured." in text
    assert not (tmp_path / "out/evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("M",), "give SRC, --to and --license"),
        (("M", "--to", "out"), "give SRC, --to and --license"),
        (("M", "--to", "out", "--license", "My own"), "--license is 'My own'; give the identifier"),
        (("M", "--to", "hf-hub:small", "--license", "mit"), "names no repository; write hf-hub:org/repo"),
        (("M", "--to", "hf-hub:me/small@v1", "--license", "mit"), "write hf-hub:me/small"),
        (("M", "--to", "out", "--license", "mit", "--private"), "--private is for --to hf-hub:org/repo"),
        (("absent", "--to", "out", "--license", "mit"), "absent does not exist"),
        (("M", "--to", ".", "--license", "mit"), ". is no name of a new folder; give one"),
        (("M", "--to", "full", "--license", "mit"), "full is there already"),
        (("M", "--to", "hf-hub:me/small", "--license", "mit"), "run `hf auth login` first"),
    ],
)
def test_bad_flags(monkeypatch, capsys, tmp_path, arguments, message):
    def nobody(self):
        raise OSError("no token")

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", nobody)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/photo.jpg").touch()
    monkeypatch.setattr(sys, "argv", ["clip-jax", "publish", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def evaluation_of(value="0.1", about="{}"):
    figures = f'{{"figures": {{"top1": {{"value": {value}, "chance": 0.1}}}}, "counts": {{}}}}'
    return f'{{"about": {about}, "evaluations": {{"x": {figures}}}}}'


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"about": {}, "evaluations": {"x": {}}}',
        evaluation_of("null"),
        evaluation_of(about='{"step": "5", "weights": "ema"}'),
    ],
)
def test_a_damaged_evaluation_stops_it_before_anything_is_written(source, tmp_path, content):
    file = tmp_path / "evaluation.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="cannot be read as an evaluation"):
        publish(open_weights(source[0]), tmp_path / "out", licence="mit", evaluation=file)
    assert not (tmp_path / "out").exists()


def test_an_evaluation_of_other_weights_is_refused(source, tmp_path):
    file = tmp_path / "evaluation.json"
    file.write_text(evaluation_of(about='{"step": 999, "weights": "ema"}'))
    opened = open_weights(source[0])
    other = dataclasses.replace(opened, origin={**opened.origin, "step": 100, "weights": "ema"})
    with pytest.raises(ValueError, match="measured step 999, and these weights are of step 100"):
        publish(other, tmp_path / "out", licence="mit", evaluation=file)
    assert not (tmp_path / "out").exists()


def test_nothing_private_is_published(tmp_path):
    model = tmp_path / "model"
    shards = "https://ajx7q:s3cr3t@data.example/prj9z/x-{0..1}.tar?X-Amz-Signature=SIGNED"
    run = TrainConfig(
        model=CONFIG,
        source=WebDatasetConfig(urls=shards, name="pairs", index_cache="/home/ajx7q/cache"),
        init_from="/home/ajx7q/prv5k/run7",
        evals={"like": AgreementConfig(teacher="/home/ajx7q/teacher", source=GlyphsConfig())},
    )
    origin = {"step": 3, "weights": "raw", "training": to_dict(run)}
    model.mkdir()
    TARGETS["clip_jax"](model, CONFIG, params_of(CONFIG), origin)
    file = tmp_path / "evaluation.json"
    about = {"step": 3, "weights": "raw", "run": "/home/ajx7q/run", "evals": to_dict(run)["evals"]}
    write_json(file, OUTCOMES, about)
    publish(open_weights(model), tmp_path / "out", licence="mit", evaluation=file)
    for written in (tmp_path / "out").iterdir():
        content = written.read_bytes()
        for secret in (b"ajx7q", b"s3cr3t", b"SIGNED", b"data.example", b"prj9z", b"prv5k", str(tmp_path).encode()):
            assert secret not in content, (written.name, secret)
    assert "x-{0..1}.tar" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("public", [False, True])
def test_a_private_repository_is_private_or_nothing_goes_there(monkeypatch, tmp_path, public):
    calls = []
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, repo, **given: None)
    there = types.SimpleNamespace(private=not public)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda self, repo: there)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **given: calls.append(given))
    if public:
        with pytest.raises(ValueError, match="me/small is there, and public, so nothing was uploaded"):
            hub.upload(tmp_path, "me/small", private=True)
    else:
        hub.upload(tmp_path, "me/small", private=True)
    assert len(calls) == (not public)


def test_what_to_try_again_stays_private(monkeypatch, tmp_path):
    def fails(self, repo, **given):
        raise OSError("connection lost")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fails)
    with pytest.raises(ValueError, match=r"`hf upload me/small .* --private`"):
        hub.upload(tmp_path, "me/small", private=True)


def test_onto_the_hub(source, measured, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", lambda self: {"name": "me"})
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, repo, **given: calls.append((repo, given)))
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda self, repo: types.SimpleNamespace(private=True))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **given: calls.append(given))
    monkeypatch.chdir(tmp_path)
    words = ["clip-jax", "publish", str(source[1]), "--to", "hf-hub:me/small", "--license", "mit", "--private"]
    monkeypatch.setattr(sys, "argv", [*words, "--evaluation", str(measured)])
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    assert exit_info.value.code == 0
    assert calls[0] == ("me/small", {"private": True, "exist_ok": True})
    assert (calls[1]["repo_id"], str(calls[1]["folder_path"])) == ("me/small", "small")
    text = (tmp_path / "small/README.md").read_text()
    assert 'clip_jax.load("hf-hub:me/small")' in text
    assert 'AutoModel.from_pretrained("me/small")' in text
    assert "hf-hub:me/small" in text
    assert "uploaded: https://huggingface.co/me/small" in capsys.readouterr().out


def test_an_upload_that_fails_leaves_the_folder(source, tmp_path, monkeypatch, capsys):
    def fails(self, **given):
        raise OSError("connection lost")

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", lambda self: {"name": "me"})
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, repo, **given: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", fails)
    monkeypatch.chdir(tmp_path)
    words = ["clip-jax", "publish", str(source[1]), "--to", "hf-hub:me/small", "--license", "mit"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    assert exit_info.value.code == 2
    assert "small is complete, but cannot be uploaded: OSError: connection lost" in capsys.readouterr().err
    assert (tmp_path / "small/README.md").is_file()
