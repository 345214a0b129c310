"""clip-jax evaluate of models that are no runs, alone and side by side."""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import pytest

from clip_jax import __main__ as entry
from clip_jax.cli import evaluate
from clip_jax.cli.evaluate import _with_suite
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.evals import suites
from clip_jax.evals.agreement import Agreement, AgreementConfig
from clip_jax.evals.zero_shot import ZeroShotConfig
from clip_jax.interop.write import TARGETS
from clip_jax.subjects import results_folder
from clip_jax.tokenizer import Tokenizer
from tests.conftest import SMALL
from tests.test_model import rough

FEW = GlyphsConfig(split="validation", limit=20, size=16)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Two folders, a and b."""
    text = dataclasses.replace(SMALL.text_cfg, vocab_size=Tokenizer.vocab_size, layers=1)
    folder = tmp_path_factory.mktemp("models")
    for name, layers in (("a", 1), ("b", 2)):
        vision = dataclasses.replace(SMALL.vision_cfg, layers=layers)
        config = dataclasses.replace(SMALL, text_cfg=text, vision_cfg=vision)
        (folder / name).mkdir()
        TARGETS["clip_jax"](folder / name, config, rough(config), {})
    return folder


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    """A suite of a second, programs compiled with little care, and no time spent on measuring speed."""
    evals = {
        "digits": ZeroShotConfig(limit=20),
        "like": AgreementConfig(teacher="", source=FEW, top=3),
        "mnist": suites.SUITES["clip"]["mnist"],
    }
    monkeypatch.setitem(suites.SUITES, "offline", evals)
    monkeypatch.setattr(evaluate, "measure_speed", lambda *given: SPEED)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


SPEED = evaluate.Speed(
    images=1, texts=1, images_spread=0, texts_spread=0, rounds=1, batch_size=8, device="one", dtype="float32"
)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["clip-jax", "evaluate", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    return exit_info.value.code  # type: ignore[return-value]


def test_several_models_side_by_side(monkeypatch, capsys, models, tmp_path):
    a, b = models / "a", models / "b"
    options = ("--suite", "--teacher", str(a), "--data_dir", str(tmp_path))
    assert run(monkeypatch, str(a), str(b), *options) == 0
    said = capsys.readouterr().out
    assert said.count("skipped 1 of 3 evaluations of the suite") == 1
    assert "tfds build mnist" in said
    assert f"the report: open {a / 'evaluation.html'}" in said
    assert (a / "evaluation.html").read_text().count("<h3") == 4  # two models, two evaluations
    last = said.rpartition("evaluation ")[2].splitlines()
    assert last[0].split() == ["figure", "a", "b", "chance"]
    assert last[4].split()[:2] == ["like", "overlap_at_3"]
    assert last[4].split()[2] == "100.00%"  # a is its own teacher
    for folder in (a, b):
        content = json.loads((folder / "evaluation.json").read_text())
        assert list(content["evaluations"]) == ["digits", "like"]
        assert list(content["about"]["evals"]) == ["digits", "like"]
        assert content["about"]["model"] == str(folder)
        row = json.loads((folder / "clip_benchmark" / "digits_zeroshot_classification.json").read_text())
        assert (row["model"], row["pretrained"]) == (folder.name, "clip_jax")
        assert row["metrics"]["acc1"] == content["evaluations"]["digits"]["figures"]["top1"]["value"]


def test_results_of_a_file_lie_beside_it(monkeypatch, models):
    file = next((models / "b").glob("*.safetensors"))
    assert run(monkeypatch, str(file), "--suite=offline") == 0
    assert (models / "b" / f"{file.name}.evaluation" / "evaluation.json").is_file()
    assert results_folder("hf-hub:org/repo@main") == Path("repo.evaluation")


def test_results_go_where_they_are_told(monkeypatch, models, tmp_path):
    a, b = (str(models / name) for name in "ab")
    assert run(monkeypatch, a, b, "--suite", "--out", str(tmp_path / "new")) == 0
    assert {file.parent.name for file in (tmp_path / "new").rglob("evaluation.json")} == {"a", "b"}


def test_equal_names_go_apart_below_what_is_told(monkeypatch, models, tmp_path):
    for name in "xy":
        shutil.copytree(models / "a", tmp_path / name / "model", ignore=shutil.ignore_patterns("evaluation.json"))
    here = {name: str(tmp_path / name / "model") for name in "xy"}
    assert run(monkeypatch, *here.values(), "--suite", "--out", str(tmp_path / "out")) == 0
    assert {file.parent.name for file in (tmp_path / "out").rglob("evaluation.json")} == {"x_model", "y_model"}
    assert not [file for name in "xy" for file in (tmp_path / name).rglob("evaluation.json")]


def test_an_evaluation_that_fails_costs_no_other(monkeypatch, capfd, models, tmp_path):
    def fails(self, encoder):
        assert list(json.loads((tmp_path / "evaluation.partial.json").read_text())["evaluations"]) == ["digits"]
        raise ValueError("no image can be read")

    monkeypatch.setattr(Agreement, "__call__", fails)
    a = str(models / "a")
    assert run(monkeypatch, a, "--suite", "--teacher", a, "--out", str(tmp_path)) == 0
    assert "1 of 2 evaluations of the suite gave nothing:\n  like: no image can be read" in capfd.readouterr().out
    assert list(json.loads((tmp_path / "evaluation.json").read_text())["evaluations"]) == ["digits"]
    assert not (tmp_path / "evaluation.partial.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("{a}", "--suite", "--out=pyproject.toml"),
            "pyproject.toml, where results are to go, cannot be made: File exists",
        ),
        (("{a}",), "a is no run folder with a checkpoint, so names no evaluations: give --suite"),
        (("{a}", "{a}", "--suite"), "a is given twice"),
        (("{a}", "--suite", "offlin"), "no suite 'offlin'; there are .* did you mean 'offline'"),
        (("{a}", "--suite=clip", "--data_dir=/nowhere"), "no evaluation of the suite can be opened:\n  food101: "),
        (("{a}", "--suite", "--teacher=/nowhere"), "/nowhere does not exist"),
        (("/nowhere", "--suite"), "/nowhere does not exist"),
        (
            ("hf-hub:a/x", "hf-hub:b/x", "--suite"),
            "results of two models would go to x.evaluation: say where with --out",
        ),
        (("{a}", "--suite", "--step=3"), "--step 3 is given, and .*a is no run folder"),
        (("{a}", "--teacher=/nowhere"), "--teacher and --data_dir are a suite's"),
        (("{a}", "--suite", "--config=tests/small_config.py"), "--suite and --config both name evaluations"),
    ],
)
def test_refusals(monkeypatch, capfd, models, arguments, message):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert run(monkeypatch, *(one.format(a=models / "a") for one in arguments)) == 2
    assert re.search(message, capfd.readouterr().err)


def test_a_model_that_is_not_there_leaves_no_folder(monkeypatch, capfd, tmp_path):
    assert run(monkeypatch, str(tmp_path / "absent"), "--suite") == 2
    assert "absent does not exist" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_suite_without_a_name(tmp_path):
    assert _with_suite(["evaluate", "m", "--suite"])[-1] == "--suite=offline"
    assert _with_suite(["evaluate", "--suite", str(tmp_path)])[1:] == ["--suite=offline", str(tmp_path)]
    assert _with_suite(["evaluate", "--suite", "clip", "m"])[1:] == ["--suite", "clip", "m"]
    assert _with_suite(["evaluate", "--suite", "--weights=raw"])[1] == "--suite=offline"
