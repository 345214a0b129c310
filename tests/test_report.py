"""The page of a run: what it says, that it loads nothing, and what it makes of missing and damaged pieces."""

import base64
import dataclasses
import io
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_jax import tree
from clip_jax.cli import report as command
from clip_jax.data.digits import DigitsConfig
from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.evals.agreement import AgreementConfig
from clip_jax.evals.colors import ColorsConfig
from clip_jax.models.clip import abstract_params
from clip_jax.models.presets import preset
from clip_jax.objectives import ObjectiveConfig
from clip_jax.report import write_report
from clip_jax.report.read import read_run
from tests.recorded_run import CONFIG, NASTY, Page, drawn, make_run, write_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "a run")


@pytest.fixture(scope="module")
def page(run: Path) -> tuple[str, Page]:
    return drawn(run)


def test_page_loads_nothing_and_runs_nothing(page):
    source, parsed = page
    for tag, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                assert value.startswith("#") or value.startswith("data:image/png;base64,"), (tag, name, value[:60])
    assert "http:" not in source
    assert "https:" not in source
    assert "@import" not in source
    assert not parsed.all("script")
    assert not parsed.all("link")
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", source))


def test_page_is_well_formed_and_accessible(page):
    _, parsed = page
    assert parsed.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in parsed.all("meta"))
    assert parsed.headings[0] == 1
    assert parsed.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(parsed.headings, parsed.headings[1:], strict=False))
    assert all(image["alt"] for image in parsed.all("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in parsed.all("svg"))
    assert all(th["scope"] in ("row", "col") for th in parsed.all("th"))
    assert len(parsed.all("figure")) == len(parsed.all("figcaption")) == len(parsed.all("svg")) == 9
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for a in (*parsed.all("a"), *parsed.all("use"))}
    assert wanted <= set(ids)


def test_page_has_all_sections(page):
    source, parsed = page
    for section in ("curves", "evaluation", "similarity", "queries", "failed", "speed", "next"):
        assert f'<section id="{section}"' in source
    for words in (
        "a run",
        "tiny",
        f"{tree.count(abstract_params(preset('tiny'))):,}",
        "glyphs (split train)",
        "38,400",
        "3:12",
        "200 pairs/s",
        "2026-11-22 10:25 UTC",
    ):
        assert words in parsed.text
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source
    assert any("Loss over steps: loss from" in svg["aria-label"] for svg in parsed.all("svg"))


def test_chance_stands_beside_figures(page):
    source, parsed = page
    row = re.search(r"text to image R@1</th><td><strong>40\.3%</strong></td><td>0\.33%</td><td>121</td>", source)
    assert row
    assert re.search(
        r"top-1 <span[^>]*>at chance</span></th><td><strong>10\.3%</strong></td><td>10\.0%</td><td>1\.0</td>", source
    )
    assert (
        "numbers: at chance (top-1 10.3%, chance 10.0%). What was learned from glyphs did not carry over to digits."
        in parsed.text
    )
    assert any("R@1 from" in svg["aria-label"] and "(chance 0.33%)" in svg["aria-label"] for svg in parsed.all("svg"))
    assert source.count("stroke-dasharray: 1.2,1.98") >= 3 + 3 + 2  # dotted levels: both retrievals, and digits' two


def test_texts_of_users_are_escaped(page):
    source, parsed = page
    assert "<script" not in source
    assert NASTY in parsed.text
    assert any(NASTY in image["alt"] for image in parsed.all("img"))


def test_pictures_decode(page):
    _, parsed = page
    images = parsed.all("img")
    assert len(images) == 24 + 2 * 5 + 3 * 2
    for image in images:
        decoded = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        decoded.load()
        assert decoded.format == "PNG"
        assert decoded.size == (32, 32)


def test_what_failed_is_said(page):
    _, parsed = page
    for words in (
        "For 47 of 500 texts (9.4%) another picture came first. The worst 3:",
        "78 of 500",
        "Skipped steps: 1 of 600",
        "Crosses on the loss mark skipped steps, 1 in all, by step 300.",
        "Replaced samples: 5 of 38,400",
        "shard-0.tar 3",
        "shard-1.tar 2",
        "0 bytes 5",
        "Half the learning rate",
        "waits for the loader 30.0%",
    ):
        assert words in parsed.text


def test_every_term_of_an_objective_is_drawn(tmp_path):
    terms = ["crd", "fd_cosine", "icl", "info_nce"]
    config = dataclasses.replace(CONFIG, objective=ObjectiveConfig(weights=dict.fromkeys(terms, 1.0)))
    folder = make_run(tmp_path / "r", config=config, evaluated=False)
    rows = [{"step": step, "loss": 4.0} | dict.fromkeys(terms, 1.0) for step in (10, 20)]
    write_rows(folder / "metrics.jsonl", rows)
    _, parsed = drawn(folder)
    loss = next(svg["aria-label"] for svg in parsed.all("svg") if svg["aria-label"].startswith("Loss"))
    assert all(f"{term.replace('_', ' ')} from 1 at step 10" in loss for term in terms)
    assert "The terms are drawn before their weights." in parsed.text


def test_without_evaluation_the_page_says_how_to_get_it(tmp_path):
    folder = make_run(tmp_path / "r", evaluated=False)
    source, parsed = drawn(folder)
    assert f"evaluate {folder}" in source
    assert "Not measured yet" in parsed.text
    assert "No pictures yet" in parsed.text
    assert re.search(r"text to image R@1</th><td><strong>40\.3%</strong></td><td>unknown</td>", source)


def test_a_bare_run_still_gives_a_page(tmp_path):
    folder = make_run(tmp_path / "r", evaluated=False)
    for name in ("timing.jsonl", "bad_samples.jsonl", "bad_samples.1.jsonl"):
        (folder / name).unlink()
    write_rows(folder / "metrics.jsonl", [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}])
    _, parsed = drawn(folder)
    assert "The loss went from 3.00 to 2.00" in parsed.text
    assert "20 of 600" in parsed.text
    assert "no timing.jsonl" in parsed.text


def test_damaged_files_are_left_out_and_said(tmp_path):
    folder = make_run(tmp_path / "r")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 610, "loss": 0.\n[]\n\n')
    (folder / "evaluation.json").write_text('{"about"')
    (folder / "pictures.npz").write_bytes((folder / "pictures.npz").read_bytes()[:5000])
    _, parsed = drawn(folder)
    for words in ("metrics.jsonl: 2 damaged lines", "evaluation.json is damaged", "pictures.npz is damaged"):
        assert words in parsed.text


def test_pickles_in_pictures_are_refused(tmp_path):
    folder = make_run(tmp_path / "r")
    np.savez(folder / "pictures.npz", **{"gallery/queries": np.array([{"a": 1}], object)})
    read = read_run(folder)
    assert any("pictures.npz is damaged" in problem for problem in read.problems)
    assert not any(outcome.pictures for outcome in read.outcomes.values())


def test_no_run_folder_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json; give the --workdir of clip-jax train"):
        write_report(tmp_path / "nowhere")
    folder = make_run(tmp_path / "r")
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl is empty; run clip-jax train"):
        write_report(folder)
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl is missing; run clip-jax train"):
        write_report(folder)


def test_lines_of_a_resumed_run_fit_together(tmp_path):
    folder = make_run(tmp_path / "r")
    again = [{"step": step, "loss": 9.0} for step in (580, 590, 600)]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in again))
    loss = read_run(folder).metrics["loss"]
    assert loss.steps.tolist() == list(range(10, 601, 10))
    assert loss.values[-3:].tolist() == [9.0] * 3


def test_time_in_training_fills_in_what_the_first_step_lacks(run):
    read = read_run(run)
    assert read.seconds == pytest.approx(600 * 0.32)
    assert read.pairs_per_second == pytest.approx(200)


def test_figures_of_students(tmp_path):
    """A correlation is neither in per cent nor a bar, in the final evaluation and in that of training."""
    evals = {
        "like_teacher": AgreementConfig(teacher="runs/teacher", source=DigitsConfig()),
        "colors": ColorsConfig(source=GlyphsConfig(split="validation")),
    }
    config = dataclasses.replace(CONFIG, evals=evals)
    folder = make_run(tmp_path / "r", config=config, evaluated=False)
    figures = {
        "like_teacher": {"overlap_at_20": (0.4, 0.1), "rbo": (0.5, 0.1), "kendall_tau": (-0.25, -0.61)},
        "colors": {"swap_accuracy": (0.3, 1 / 11), "color_minus_noun_at_20": (-0.031, 0.0)},
    }
    flat = {f"{name}/{key}": value for name, found in figures.items() for key, (value, _) in found.items()}
    write_rows(folder / "metrics.jsonl", [{"step": step, "loss": 1.0} | flat for step in (100, 200)])
    text, _ = drawn(folder)
    assert "-0.250" in text
    assert "-25.0%" not in text
    evaluations = {
        name: {
            "figures": {key: {"value": value, "chance": chance} for key, (value, chance) in found.items()},
            "counts": {"images": 200, "queries": 150},
        }
        for name, found in figures.items()
    }
    (folder / "evaluation.json").write_text(
        json.dumps({"about": {"step": 200, "weights": "raw"}, "evaluations": evaluations})
    )
    text, _ = drawn(folder)
    rows = {found[1]: found[0] for found in re.finditer(r'<tr><th scope="row">([^<]*)<.*</tr>', text)}
    assert '<strong>40.0%</strong></td><td>10.0%</td><td>4.0</td><td aria-hidden="true"><span' in rows["overlap@20"]
    assert '<strong>-0.250</strong></td><td>-0.610</td><td>-</td><td aria-hidden="true"></td>' in rows["kendall tau"]
    assert "<strong>-0.031</strong></td><td>+0.000</td><td>-</td>" in rows["color minus noun@20"]
    assert "RBO" in rows
    assert "40.0% of the teacher&#39;s first 20 pictures for a text are in the student&#39;s" in text
    assert "agreement on digits against teacher runs/teacher" in text
    assert "Also swap accuracy on colors 30.0% (3.3 x chance)." in text


def test_command_line(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["clip-jax"])
    assert command.main(["clip-jax report", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 5 <= len(lines) <= 8
    assert lines[0] == "icons: text to image R@1 40.3%, 121 x chance (0.33%)"
    assert "not learned: numbers at chance (10.3%, chance 10.0%)" in lines
    assert f"the report: open {shlex.quote(str(run / 'report.html'))}" in lines
    tries = [shlex.split(line) for line in lines if line.startswith("  ")]
    assert len(tries) == 2
    assert all("train" in words and "configs/quickstart.py" in words for words in tries)
    assert all(words[words.index("--workdir") + 1].startswith(str(run)) for words in tries)


def test_command_line_wants_a_folder():
    with pytest.raises(ValueError, match="give a run folder"):
        command.main(["clip-jax report"])
