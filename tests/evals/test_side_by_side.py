"""Several models in one table."""

import io

import pytest
from rich.console import Console

from clip_jax.evals.protocol import Figure, Outcome
from clip_jax.evals.side_by_side import column_names, differing, folder_names, side_by_side


def outcome(**values: tuple[float, float | None]) -> Outcome:
    return Outcome(figures={key: Figure(value=v, chance=c) for key, (v, c) in values.items()}, counts={})


def test_a_column_a_model():
    measured = {
        "a": {"x": outcome(top1=(0.5, None), kendall_tau=(-0.25, -0.6)), "y": outcome(top1=(1.0, 0.5))},
        "b": {"x": outcome(top1=(0.25, 0.1), top5=(0.75, 0.5))},
    }
    text = io.StringIO()
    Console(file=text, width=100).print(side_by_side(measured))
    rows = [line.split() for line in text.getvalue().splitlines()]
    assert rows == [
        ["evaluation", "figure", "a", "b", "chance"],
        ["x", "top1", "50.00%", "25.00%", "10.00%"],
        ["x", "kendall_tau", "-0.250", "-0.600"],
        ["x", "top5", "75.00%", "50.00%"],
        ["y", "top1", "100.00%", "50.00%"],
    ]


def test_names_tell_models_apart():
    assert column_names(["runs/a", "runs/b/", "hf-hub:o/r"]) == ["a", "b", "r"]
    assert column_names(["one/a", "two/a", "b"]) == ["one/a", "two/a", "b"]
    assert column_names(["/r/x/1/a", "/r/y/1/a", "a"]) == ["x/1/a", "y/1/a", "a"]
    assert column_names(["a/b", "b"]) == ["a/b", "b"]
    with pytest.raises(ValueError, match="runs/a is given twice"):
        column_names(["runs/a", "runs/a/"])


def test_folders_are_below_where_they_are_told_and_apart():
    assert folder_names(["a", "hf-hub:o/r", "ViT-B.pt"]) == ["a", "hf-hub_o_r", "ViT-B.pt"]
    assert folder_names(["/r/a/student", "../b/student", "../b_student", "."]) == [
        "r_a_student",
        "b_student",
        "b_student-2",
        "model",
    ]


def test_evaluations_that_are_not_the_same():
    assert differing({"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3, "z": 4}}) == ["y"]
