"""Evaluations by name: what opening them refuses, and the table of figures of any sort."""

import io
import json
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.evals.agreement import AgreementConfig
from clip_jax.evals.colors import ColorsConfig
from clip_jax.evals.protocol import Figure, Outcome
from clip_jax.evals.retrieval import RetrievalConfig
from clip_jax.evals.suite import KINDS, figure_names, open_evaluations, table, write_json
from clip_jax.loading import load_encoder
from tests.evals.memory import FixedEncoder, embedded

FEW = GlyphsConfig(split="validation", limit=30, size=8)
OUTCOMES = {
    "student": Outcome(
        figures={
            "overlap_at_20": Figure(value=0.41234, chance=0.1),
            "kendall_tau": Figure(value=-0.5, chance=-0.61),
            "color_minus_noun_at_20": Figure(value=0.031, chance=0.0),
            "mystery": Figure(value=0.5, chance=None),
        },
        counts={"queries": 10},
    )
}


def test_shares_are_in_per_cent_and_others_have_a_sign():
    text = io.StringIO()
    Console(file=text, width=100).print(table(OUTCOMES))
    rows = [line.split() for line in text.getvalue().splitlines()]
    assert rows == [
        ["evaluation", "figure", "value", "chance", "x", "chance"],
        ["student", "overlap_at_20", "41.23%", "10.00%", "4.1"],
        ["student", "kendall_tau", "-0.500", "-0.610"],
        ["student", "color_minus_noun_at_20", "+0.031", "+0.000"],
        ["student", "mystery", "50.00%"],
    ]


def test_json(tmp_path):
    write_json(tmp_path / "evaluation.json", OUTCOMES, {"step": 3})
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["about"]["step"] == 3
    assert content["evaluations"]["student"]["figures"]["kendall_tau"] == {"value": -0.5, "chance": -0.61}


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (AgreementConfig(teacher="/nowhere", source=FEW), FileNotFoundError, "evals.e: /nowhere does not exist"),
        (ColorsConfig(teacher="/nowhere", source=FEW), FileNotFoundError, "evals.e: /nowhere does not exist"),
        (AgreementConfig(teacher="", source=FEW), ValueError, "evals.e: agreement needs a teacher"),
        (RetrievalConfig(source=FEW, limit=-1), ValueError, "evals.e: limit -1"),
    ],
)
def test_what_cannot_be_opened(config, error, message):
    with pytest.raises(error, match=message):
        open_evaluations({"e": config}, load=load_encoder)


def test_a_teacher_of_several_evaluations_is_opened_once():
    opened = []

    def load(teacher: str) -> Any:
        opened.append(teacher)
        return FixedEncoder(embedded(np.eye(9), [(row, f"text {row}", np.eye(9)[row]) for row in range(9)]))

    configs = {f"{name}{top}": AgreementConfig(teacher=name, source=FEW, top=top) for name in "ab" for top in (2, 3)}
    assert list(open_evaluations(configs, load=load)) == ["a2", "a3", "b2", "b3"]
    assert opened == ["a", "b"]


def test_every_kind_names_its_figures():
    for kind, cls in KINDS.items():
        if kind in ("winoground", "relations", "fairface"):
            continue  # of files alone
        config = cls(teacher="t", source=FEW) if kind in ("agreement", "senses", "unseen") else cls(source=FEW)
        assert isinstance(figure_names(config), tuple)
    assert "overlap_at_5" in figure_names(AgreementConfig(teacher="t", top=5))
    assert "color_minus_noun_at_5" in figure_names(ColorsConfig(teacher="t", top=5))
    assert "color_minus_noun_at_5" not in figure_names(ColorsConfig(top=5))
