"""The statistics and the table of the distillation bench."""

import math

import numpy as np
import pytest

from tests.bench.distill_report import write_report
from tests.bench.distill_settings import Variant
from tests.bench.distill_table import (
    BEGIN,
    END,
    Difference,
    cell,
    difference,
    difference_cell,
    markdown,
    write_between,
)

NONE = {0: {"r1": 0.10}, 1: {"r1": 0.14}, 2: {"r1": 0.12}}


def better(*gains: float) -> dict[int, dict[str, float]]:
    return {seed: {"r1": NONE[seed]["r1"] + gain} for seed, gain in enumerate(gains)}


def test_difference_is_taken_seed_by_seed():
    found = difference(better(0.01, 0.02, 0.03), NONE, "r1")
    assert found is not None
    assert found.mean == pytest.approx(0.02)
    assert found.spread == pytest.approx(np.std([0.01, 0.02, 0.03], ddof=1))
    assert found.seeds == 3


@pytest.mark.parametrize(
    ("gains", "clear"),
    # t of 95% with two degrees of freedom is 4.303: the interval of the first pair's mean is 0.02 +- 0.0248
    [((0.01, 0.02, 0.03), False), ((0.016, 0.02, 0.024), True), ((-0.016, -0.02, -0.024), True), ((0.01,), None)],
)
def test_clear_is_where_the_interval_leaves_zero_out(gains, clear):
    found = difference(better(*gains), NONE, "r1")
    assert found is not None
    assert found.clear is clear


def test_difference_without_a_common_seed():
    assert difference({3: {"r1": 0.5}}, NONE, "r1") is None
    assert difference_cell(None) == ""


def test_cells():
    assert cell([0.1, 0.14, 0.12]) == "12.0 ± 2.0"
    assert cell([0.1]) == "10.0"
    assert cell([]) == ""
    assert difference_cell(Difference(mean=0.02, spread=0.004, seeds=3, clear=True)) == "+2.0 ± 0.4 *"
    assert difference_cell(Difference(mean=-0.02, spread=0.03, seeds=3, clear=False)) == "-2.0 ± 3.0"
    assert difference_cell(Difference(mean=0.02, spread=math.nan, seeds=1, clear=None)) == "+2.0"


def test_table_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    table = markdown(["a", "b"], [["x", "1"]])
    for _ in range(2):
        write_between(page, table)
    assert page.read_text() == f"before\n{BEGIN}\n| a | b |\n| --- | ---: |\n| x | 1 |\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["nothing", f"{BEGIN} alone", f"{END} then {BEGIN}"])
def test_page_without_marks(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="no place for the table"):
        write_between(page, "table")
    assert page.read_text() == text


@pytest.mark.parametrize("ran", [("none",), ("none", "kd")])
def test_legend_names_what_has_no_run(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "docs" / "distillation.md"
    page.parent.mkdir()
    page.write_text(f"{BEGIN}\n{END}\n")
    recalls = [f"val/{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    figures = dict.fromkeys([*recalls, "val/mean_recall", "agreement/overlap_at_20", "agreement/rbo"], 0.5)
    about = {
        "data": {"name": "pairs", "samples": {"train": 3, "dev": 2, "val": 1}},
        "chance": figures,
        "teacher": {"figures": figures},
    }
    both = (
        Variant(name="none", label="no teacher", weights={"info_nce": 1.0}, teacher=""),
        Variant(name="kd", label="KD", weights={"info_nce": 1.0, "crd": 2.0}),
    )
    write_report(both, [{"variant": name, "seed": 0, "figures": figures} for name in ran], [], about)
    assert ("Set up, but not run: KD (info_nce 1, crd 2). Not set up: " in page.read_text()) is ("kd" not in ran)
    assert ("| KD |" in page.read_text()) is ("kd" in ran)
    assert ("Set up" in page.read_text()) is ("kd" not in ran)
