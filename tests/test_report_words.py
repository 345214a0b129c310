"""What the report says of figures, and what it advises."""

import dataclasses
import math

import pytest

from clip_jax.data.glyphs import GlyphsConfig
from clip_jax.data.sources import MixtureConfig, Weighted
from clip_jax.data.table import TableConfig
from clip_jax.data.webdataset import WebDatasetConfig
from clip_jax.evals.protocol import Figure
from clip_jax.models.presets import preset
from clip_jax.report import figures as report_figures
from clip_jax.report import words as report_words
from clip_jax.report.read import read_run
from tests.recorded_run import CONFIG, make_run


@pytest.mark.parametrize(
    ("value", "chance", "asked", "words"),
    [
        (0.1, 0.1, 1797, "at chance"),
        (0.115, 0.1, 1797, "at chance"),
        (0.13, 0.1, 1797, "hardly above chance"),
        (0.3, 0.1, 1797, ""),
        (0.05, 0.1, 1797, "below chance"),
        (0.06, 0.002, 500, ""),
        (0.004, 0.002, 500, "at chance"),
        (0.6, 0.5, 10_000, ""),
        (0.4, None, 500, ""),
        (math.nan, 0.1, 500, "not finite"),
    ],
)
def test_verdict(value, chance, asked, words):
    assert report_figures.verdict("top1", Figure(value=value, chance=chance), {"images": asked}) == words


@pytest.mark.parametrize(
    ("figure", "value", "chance", "words"),
    [
        ("overlap_at_20", 0.12, 0.1, "at chance"),  # of the 100 queries, not the images
        ("rbo", 0.4, 0.1, ""),
        ("swap_accuracy", 0.12, 0.1, "hardly above chance"),
        ("kendall_tau", -0.6, -0.6, ""),
        ("color_minus_noun_at_20", -0.3, 0.0, ""),
        ("kendall_tau", math.nan, -0.6, "not finite"),
    ],
)
def test_verdict_of_students(figure, value, chance, words):
    counts = {"images": 10_000, "queries": 100}
    assert report_figures.verdict(figure, Figure(value=value, chance=chance), counts) == words


def test_words():
    assert report_figures.figure_words("text_to_image_r10") == "text to image R@10"
    assert report_figures.figure_words("top5") == "top-5"
    assert report_figures.figure_words("mean_per_class") == "mean per class"
    assert [report_figures.percent(share) for share in (0.0, 0.002, 0.0834, 1.0, None, math.nan)] == [
        "0.0%",
        "0.20%",
        "8.3%",
        "100.0%",
        "",
        "not finite",
    ]
    assert report_words.listing(["a", "b", "c"]) == "a, b and c"
    assert report_words.model_words(preset("tiny")).startswith("tiny (")
    assert report_words.model_words(preset("ViT-B-32-quickgelu")).startswith("ViT-B-32-quickgelu (")


def test_a_mixture_carries_over_from_what_it_draws_from(tmp_path):
    source = MixtureConfig(parts=(Weighted(weight=1, source=GlyphsConfig()), Weighted(weight=1, source=GlyphsConfig())))
    config = dataclasses.replace(CONFIG, source=source)
    lines = report_words.failed(read_run(make_run(tmp_path / "r", config=config, learned=False)))
    said = {name: next(line for line in lines if line.startswith(name)) for name in ("icons", "numbers")}
    assert said["numbers"].endswith("What was learned from glyphs did not carry over to digits.")
    assert said["icons"].endswith("It was not learned yet: train longer, or look at the loss.")


def test_nothing_learned_is_said(tmp_path):
    read = read_run(make_run(tmp_path / "r", learned=False))
    assert report_words.learned(read).startswith("Nothing that these evaluations can see was learned: ")
    assert any("not learned yet: train longer" in line for line in report_words.failed(read))


def test_next_steps_of_a_run_of_unknown_origin_name_no_config_that_is_not_there(tmp_path):
    source = MixtureConfig(
        parts=(
            Weighted(weight=2, source=TableConfig(path="pairs.tsv", name="mine")),
            Weighted(weight=1, source=WebDatasetConfig(urls="{0..9}.tar", name="web")),
        )
    )
    config = dataclasses.replace(CONFIG, source=source, model=preset("ViT-S-16"), origin="")
    read = read_run(make_run(tmp_path / "r", config=config))
    for why, pieces in report_words.next_steps(read, "clip-jax"):
        assert "CONFIG.py: the file you trained with" in why
        assert pieces[1] == "--config CONFIG.py"
    assert (
        report_words.source_words(source)
        == "a mixture of table (path pairs.tsv, name mine) x 2 and webdataset (urls {0..9}.tar, name web) x 1"
    )


def test_snippet_for_own_data_is_a_config(tmp_path):
    names: dict = {}
    exec(report_words.OWN_DATA.format(command="clip-jax"), names)
    config = names["get_config"]()
    assert config.source.kind == "webdataset"
    assert config.source.urls == "shards/{00000..00041}.tar"
