"""A folder of exports: what is in it, that it can be used as its README says, and what is left where it fails."""

import contextlib
import dataclasses
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import clip_jax
from clip_jax import __main__ as entry
from clip_jax.export import folder as exporting
from clip_jax.export import formats, measure, record
from clip_jax.export.card import card
from clip_jax.export.folder import Order, export_model
from clip_jax.export.formats import FORMATS, Kind
from clip_jax.interop.proof.gate import NotProven
from clip_jax.interop.recognize import open_weights
from clip_jax.interop.write import TARGETS
from tests.export.models import CONFIGS, need
from tests.export.recorded import FILE, RECORDED


@pytest.fixture(scope="module")
def model(exported, tmp_path_factory):
    """A folder with the small ViT, as `convert` writes it."""
    config, params, _ = exported("vit")
    path = tmp_path_factory.mktemp("model")
    TARGETS["clip_jax"](path, config, params, {})
    return path


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """It exported to the two formats that need no converter."""
    out = tmp_path_factory.mktemp("out") / "phone"
    kinds = [Kind(format="jax", precision="f32"), Kind(format="safetensors", precision="f16")]
    export_model(open_weights(model), out, Order(kinds=kinds, preprocess=True))
    return out


def test_all_files_are_there_and_measured(made):
    found = record.read(made)
    assert [file.path for file in found.files] == [
        "jax-f32/image.jax",
        "jax-f32/text.jax",
        "safetensors-f16/model.safetensors",
    ]
    assert all((made / file.path).stat().st_size == file.bytes for file in found.files)
    assert found.overlaps["jax-f32"] == 1
    assert found.samples == 200
    assert "jax" in found.made_with
    assert not list(made.parent.glob("*.unproven"))


def test_the_readme_can_be_followed(made, exported, monkeypatch):
    samples = exported("vit")[2]
    text = (made / "README.md").read_text()
    assert "| jax-f32/image.jax |" in text
    for file in record.read(made).files:
        assert f"{file.bytes / 1e6:.2f}" in text
    monkeypatch.chdir(made)
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 2
    scope = {"pixels": samples.squares[:2]}
    exec(snippets[0], scope)
    np.testing.assert_allclose(scope["image_embedding"], samples.outputs["image_embedding"][:2], atol=1e-5)


@pytest.mark.parametrize("name", ["jax", "onnx", "litert"])
def test_the_readme_of_both_towers_in_one_file_can_be_followed(name, model, exported, tmp_path, monkeypatch):
    need(name)
    samples, out = exported("vit")[2], tmp_path / "out"
    export_model(
        open_weights(model), out, Order(kinds=[Kind(format=name, precision="f32")], towers=("joint",), batch=2)
    )
    monkeypatch.chdir(out)
    (snippet,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    scope = {"pixels": samples.pixels[:2], "tokens": samples.tokens[:2]}
    exec(snippet, scope)
    np.testing.assert_allclose(scope["image_embedding"], samples.outputs["image_embedding"][:2], atol=1e-5)


def test_core_mls_pictures_are_told_of():
    file = dataclasses.replace(FILE, path="coreml-f16/joint.mlpackage", format="coreml", tower="joint", preprocess=True)
    text = card("phone", CONFIGS["vit"], dataclasses.replace(RECORDED, files=(file,)))
    assert "Core ML takes a picture instead, RGB, 16x16" in text
    assert 'model.predict({"pixels": pixels, "tokens": tokens})["image_embedding"]' in text
    assert "`logits`: f32 [batch, batch]" in text


def test_files_that_would_be_too_large_are_refused_before_the_work(model, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_MOST", 2_000_000)
    with pytest.raises(
        ValueError, match=r"jax-f16/joint\.jax would take 0\.0 GB in f16.*or another format, such as coreml or"
    ):
        export_model(
            open_weights(model), tmp_path / "out", Order(kinds=[Kind(format="jax", precision="f16")], towers=("joint",))
        )
    kinds = [Kind(format="safetensors", precision="f16")]
    record_ = export_model(open_weights(model), tmp_path / "out", Order(kinds=kinds, batch=8))
    assert record_.files[0].batch is None


def test_a_converter_that_gives_up_loses_nothing(model, tmp_path, monkeypatch):
    def gives_up(*given):
        raise RuntimeError("no such operation")

    monkeypatch.setitem(FORMATS, "onnx", dataclasses.replace(FORMATS["onnx"], write=gives_up, needs=()))
    kinds = [Kind(format="jax", precision="f32"), Kind(format="onnx", precision="f32")]
    with pytest.raises(
        NotProven, match=r"onnx-f32/image\.onnx: its converter gave up: RuntimeError: no such operation"
    ):
        export_model(open_weights(model), tmp_path / "out", Order(kinds=kinds, towers=("image",)))
    assert (tmp_path / "out.unproven/jax-f32/image.jax").is_file()


@pytest.mark.parametrize("precision", ["f16", "int8"])
def test_weights_in_fewer_bits_are_a_model_to_load(model, made, exported, tmp_path, precision):
    if precision == "int8":
        kinds = [Kind(format="safetensors", precision="int8")]
        export_model(open_weights(model), tmp_path / "out", Order(kinds=kinds))
        made = tmp_path / "out"
    samples = exported("vit")[2]
    loaded = clip_jax.load(made / f"safetensors-{precision}")
    cosines = (loaded.encode_text(samples.tokens[:9]) * samples.outputs["text_embedding"][:9]).sum(axis=1)
    assert cosines.min() > measure.COSINES[precision]
    tokenizer = json.loads((made / "tokenizer.json").read_text())
    assert len(tokenizer["model"]["vocab"]) == 49408


def test_a_file_that_is_not_the_model_is_left_for_a_look(model, tmp_path, monkeypatch):
    def collapsed(*given):
        raise NotProven("it has collapsed")

    monkeypatch.setattr(exporting.measure, "measure", collapsed)
    out = tmp_path / "out"
    order = Order(kinds=[Kind(format="jax", precision="f16")], towers=("text",))
    with pytest.raises(NotProven, match=r"jax-f16/text\.jax: it has collapsed\nThe files are left in .*out\.unproven"):
        export_model(open_weights(model), out, order)
    assert not out.exists()
    assert (tmp_path / "out.unproven/jax-f16/text.jax").is_file()
    with pytest.raises(ValueError, match="not proven; look at it, delete it"):
        export_model(open_weights(model), out, order)


def test_what_cannot_be_written_leaves_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.FORMATS["jax"].__class__, "name", lambda self, tower: "x/y/z.jax")
    with pytest.raises(ValueError, match="cannot be written: No such file or directory"):
        export_model(open_weights(model), tmp_path / "out", Order(kinds=[Kind(format="jax", precision="f32")]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", '{"files": 3}'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / record.RECORD).write_text(content)
    with pytest.raises(ValueError, match=r"export\.json is damaged"):
        record.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="give a folder that clip-jax export has written"):
        record.read(tmp_path / "absent")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --checkpoint, --format and OUT"),
        (("--checkpoint", "M", "--format", "jax"), "give --checkpoint, --format and OUT"),
        (("--checkpoint", "M", "--format", "tflite", "O"), "--format is 'tflite'; give some of onnx, coreml, litert"),
        (("--checkpoint", "M", "--format", "jax,jax", "O"), "each once"),
        (("--checkpoint", "M", "--format", "jax", "--precision", "int4", "O"), "give some of f32, f16, int8"),
        (("--checkpoint", "M", "--format", "jax", "--towers", "both", "O"), "give some of image, text, joint"),
        (("--checkpoint", "M", "--format", "jax", "--batch", "-1", "O"), "batch"),
        (
            ("--checkpoint", "M", "--format", "coreml", "--preprocess", "--batch", "2", "O"),
            "one picture at a time, not 2",
        ),
        (("--checkpoint", "absent", "--format", "jax", "O"), "absent does not exist"),
        (("--checkpoint", "M", "--format", "jax", "full"), "full is there already"),
    ],
)
def test_bad_flags(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/photo.jpg").touch()
    monkeypatch.setattr("clip_jax.cli.export.check_installed", lambda formats: None)
    monkeypatch.setattr(sys, "argv", ["clip-jax", "export", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_fits_a_terminal(monkeypatch, model, tmp_path):
    said = io.StringIO()
    out = tmp_path / "out"
    words = ["--checkpoint", str(model), "--format", "jax", "--precision", "f16,int8", "--towers", "image", str(out)]
    monkeypatch.setattr(sys, "argv", ["clip-jax", "export", *words])
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as exit_info:
        entry.main()
    assert exit_info.value.code == 0
    lines = said.getvalue().splitlines()
    (row,) = (line for line in lines if line.startswith("jax-int8/image "))
    assert len(row.split()) == 7
    assert max(map(len, lines[: lines.index(row) + 1])) <= 80
    assert lines[-1].startswith("done: ")
