"""The page of evaluations: one model and several, groups drawn, what is refused."""

import json
import re

import pytest

from clip_jax.cli import report as command
from clip_jax.evals.protocol import Figure, Outcome
from clip_jax.evals.robustness import ROBUSTNESS_FIGURES
from clip_jax.evals.suite import write_json
from clip_jax.report.evaluations import write_evaluations
from tests.recorded_run import NASTY, Page

BINS = {
    "cosine_bin_1": Figure(value=0.31, chance=None),
    "bin_1_overlap_at_20": Figure(value=0.5, chance=0.04),
    "cosine_bin_2": Figure(value=0.92, chance=None),
    "bin_2_overlap_at_20": Figure(value=0.8, chance=0.04),
}
OUTCOMES = {
    "gallery": Outcome(
        figures={"text_to_image_r1": Figure(value=0.2, chance=0.002)}, counts={"images": 500, "captions": 500}
    ),
    "digits": Outcome(figures={"top1": Figure(value=0.101, chance=0.1)}, counts={"images": 500, "unreadable": 2}),
    "unseen": Outcome(figures=BINS, counts={"images": 500, "queries": 400}),
    "faces": Outcome(
        figures={
            "race": Figure(value=0.9, chance=1 / 7),
            "crime": Figure(value=0.1, chance=None),
            "crime_black": Figure(value=0.2, chance=None),
            "crime_with_child_black": Figure(value=0.1, chance=None),
        },
        counts={"images": 100},
    ),
    "shift": Outcome(
        figures={name: Figure(value=0.1 * n, chance=None) for n, name in enumerate(ROBUSTNESS_FIGURES)},
        counts={"images": 10},
    ),
    "senses": Outcome(
        figures={
            "senses_covered_at_20": Figure(value=0.6, chance=0.5),
            "teacher_senses_covered_at_20": Figure(value=0.9, chance=None),
            "entropy_ratio": Figure(value=1.1, chance=None),
        },
        counts={"queries": 50},
    ),
}


def written(folder, name, outcomes=OUTCOMES, **about):
    (folder / name).mkdir(parents=True)
    speed = {"images": 10.0, "texts": 20.0, "device": "CPU (2 cores)", "dtype": "float32"}
    write_json(folder / name / "evaluation.json", outcomes, {"model": name, "speed": speed, **about})
    return folder / name


def test_a_page_of_one_model(tmp_path, capsys):
    folder = written(tmp_path, "small", step=5, weights="ema")
    assert command.main(["clip-jax report", str(folder)]) == 0
    assert f"the report: open {folder / 'evaluation.html'}" in capsys.readouterr().out
    text = (folder / "evaluation.html").read_text()
    page = Page(text)
    words = " ".join(page.words)
    for said in ("step 5, ema weights", "10 images/s, 20 texts/s on CPU (2 cores), float32", "10.1%", "+1.100"):
        assert said in words, said
    told = re.findall(r'<svg [^>]*aria-label="([^"]+?)\. ', text)
    assert told == [
        "Each evaluation",
        "unseen: overlap@20",
        "faces: taken for criminals",
        "shift: effective robustness",
        "senses: student and teacher",
    ]
    assert "cosine 0.310: small 50.0%; cosine 0.920: small 80.0%" in text
    assert 'taken for criminals. black: small 20.0%"' in text
    assert not re.search(r'(src|href)="(?!#)', text)
    assert page.headings[:3] == [1, 2, 2]


def test_a_page_of_several_models(tmp_path):
    folders = [written(tmp_path, name) for name in ("a", "b")]
    few = written(tmp_path, "few", {"digits": OUTCOMES["digits"]})
    text = write_evaluations([*folders, few], tmp_path / "page.html").path.read_text()
    assert "digits, top-1: a 10.1%, b 10.1% and few 10.1%" in text
    assert "gallery, text to image R@1: a 20.0% and b 20.0%" in text
    assert text.count('class="dot"') == 3
    assert text.count('scope="col" class="drawn"') == 3 * len(OUTCOMES)


def test_texts_are_escaped(tmp_path):
    folder = written(tmp_path, "small", {NASTY: OUTCOMES["digits"]})
    text = write_evaluations([folder]).path.read_text()
    assert not [tag for tag, _ in Page(text).tags if tag == "script"]


def test_an_evaluation_without_figures(tmp_path):
    folder = written(tmp_path, "small", {"empty": Outcome(figures={}, counts={})})
    assert "The evaluation has no figures." in write_evaluations([folder]).path.read_text()


def test_refusals(tmp_path):
    folder = written(tmp_path, "small")
    with pytest.raises(FileNotFoundError, match=r"has no evaluation\.json; clip-jax evaluate writes one"):
        write_evaluations([folder, tmp_path / "absent"])
    with pytest.raises(ValueError, match="is given twice"):
        write_evaluations([folder, folder])
    for damaged in ("{", json.dumps({"about": {}, "evaluations": {"x": {"figures": {"y": {"value": None}}}}})):
        (folder / "evaluation.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"evaluation\.json is damaged"):
            write_evaluations([folder])
