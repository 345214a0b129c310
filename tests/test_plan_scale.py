"""The grid of docs/scale.md, and the page that is written out of what was compiled of it."""

import dataclasses

import pytest

from clip_jax.objective_check import check_objective
from clip_jax.plan.chips import parse_pod
from tests.bench.scale import TEACHER, Row, rows
from tests.bench.scale_page import page


def test_the_grid_spans_what_it_says():
    grid = rows()
    assert len({row.name for row in grid}) == len(grid)
    assert {row.model for row in grid} == {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-g-14", "ViT-bigG-14"}
    chips = {parse_pod(row.topology).size for row in grid}
    assert (min(chips), max(chips)) == (16, 6144)
    assert (min(row.batch for row in grid), max(row.batch for row in grid)) == (32_768, 1_048_576)
    assert {row.model for row in grid if row.distilled} == {row.model for row in grid}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_every_row_can_work(row: Row):
    config = row.config()
    assert config.accumulate * row.part == row.pairs
    assert parse_pod(row.topology).size % row.fsdp == 0
    check_objective(
        config.objective,
        has_bias=False,
        teachers=config.teachers,
        offers={"teacher": TEACHER} if row.distilled else {},
        embed_dim=config.model.embed_dim,
        can_mask=True,
        steps=config.steps,
    )


def test_page():
    small, large, taught = (
        Row(model="ViT-B-32", topology=topology, pairs=2048, part=512, fsdp=1, distilled=distilled)
        for topology, distilled in (("v5e:4x4", False), ("v5e:16x16", False), ("v5e:16x16", True))
    )
    missing = Row(model="ViT-H-14", topology="v5p:4x4x4", pairs=512, part=32, fsdp=8)

    def found(row: Row, step: float) -> dict:
        return {
            "row": dataclasses.asdict(row) | {"batch": row.batch, "chips": parse_pod(row.topology).size},
            "total": 6.8e9,
            "memory": 17.2e9,
            "collectives": [{"sent": 2e9}, {"sent": 1e9}],
            "times": {"step": step, "mfu": 0.25, "mfu_bound": 0.5},
            "versions": {"jax": "1", "libtpu": "2"},
        }

    grid = [(row.name, dataclasses.asdict(row)) for row in (small, large, taught, missing)]
    known = {small.name: found(small, 1.0), large.name: found(large, 1.25), taught.name: found(taught, 2.5)}
    said = page(grid, known)
    assert "Compiled: 3 of 4 rows" in said
    assert "| 16 | 32,768 | 2,048 | 512 | 1 | 6.8 | 17.2 | 3.0 | 1.00 | 2,048 | basis | 25.0% | 50.0% |" in said
    assert "| 256 | 524,288 | 2,048 | 512 | 1 | 6.8 | 17.2 | 3.0 | 1.25 | 1,638 | 80.0% | 25.0% | 50.0% |" in said
    assert "| 819 | 50.0% |" in said  # half as fast as pretraining on the same pod
    assert f"* {missing.name}" in said
    refused = known | {large.name: found(large, 1.0) | {"times": None}}
    assert "does not fit" in page(grid, refused)
