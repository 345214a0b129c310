"""The page of a run: what it says, that it loads nothing, and what it makes of missing and damaged pieces."""

import base64
import dataclasses
import html.parser
import io
import json
import math
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
from clip_jax.data.sources import MixtureConfig, Weighted
from clip_jax.data.table import TableConfig
from clip_jax.data.webdataset import WebDatasetConfig
from clip_jax.evals.agreement import AgreementConfig
from clip_jax.evals.colors import ColorsConfig
from clip_jax.evals.protocol import Figure
from clip_jax.evals.retrieval import RetrievalConfig
from clip_jax.evals.showcase import ShowcaseConfig
from clip_jax.evals.zero_shot import ZeroShotConfig
from clip_jax.experiment import TrainConfig
from clip_jax.models.clip import abstract_params
from clip_jax.models.presets import preset
from clip_jax.objectives import ObjectiveConfig
from clip_jax.optim import OptimConfig
from clip_jax.plain import to_dict
from clip_jax.report import figures as report_figures
from clip_jax.report import plots as report_plots
from clip_jax.report import words as report_words
from clip_jax.report import write_report
from clip_jax.report.read import read_run

NASTY = '<script>alert("1")</script> & $x_1$'
QUERIES = ("a red heart", NASTY)
EVALS = {
    "icons": RetrievalConfig(source=GlyphsConfig(split="validation", limit=300)),
    NASTY: RetrievalConfig(source=GlyphsConfig(split="concepts", limit=500)),
    "numbers": ZeroShotConfig(source=DigitsConfig()),
    "gallery": ShowcaseConfig(queries=QUERIES),
}
CONFIG = TrainConfig(
    origin="configs/quickstart.py",
    steps=600,
    batch_size=64,
    model=preset("tiny"),
    evals=EVALS,
    eval_every=100,
    log_every=10,
    optim=OptimConfig(clip_norm=1.0, warmup_steps=60),
)


def make_run(folder: Path, *, config: TrainConfig = CONFIG, evaluated: bool = True, learned: bool = True) -> Path:
    """A run of 600 steps that never was, with a loss that is not finite at step 300."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    rng = np.random.default_rng(0)
    metrics, timing = [], []
    for step in range(10, 601, 10):
        done = step / 600
        skipped = float(step >= 300)
        loss = None if step == 300 else 3.9 * math.exp(-2.2 * done) + 0.05 * rng.normal()
        row = {"step": step, "loss": loss, "info_nce": loss, "lr": 1e-3 * min(done / 0.1, 1 - done), "skipped": skipped}
        row |= {
            "logit_scale": 14 + 9 * done,
            "grad_norm": 3 + rng.random(),
            "skipped_in_row": 0.0,
            "replaced": 5 * done,
        }
        metrics.append(row)
        speed = {
            "pairs_per_second": 200 + rng.random(),
            "step_seconds": 0.32,
            "loader_wait": 0.3,
            "tflops_per_device": 0.1,
        }
        timing.append({"step": step} | (speed if step > 10 else {"pairs_per_second": 0.0, "step_seconds": 0.0}))
        if step % 100 == 0:
            metrics.append({"step": step} | {key: value for key, (value, _) in _figures(done * learned).items()})
    _write_rows(folder / "metrics.jsonl", metrics)
    _write_rows(folder / "timing.jsonl", timing)
    bad = [{"step": 3, "uid": "00", "shard": f"shard-{n % 2}.tar", "reason": "0 bytes"} for n in range(5)]
    _write_rows(folder / "bad_samples.jsonl", bad[:3])
    _write_rows(folder / "bad_samples.1.jsonl", bad[3:])
    if evaluated:
        _evaluate(folder, learned)
    return folder


def _figures(done: float) -> dict[str, tuple[float, float]]:
    """Value and chance of all figures at a share of the run."""
    found = {}
    for name, size, reach in (("icons", 300, 0.8), (NASTY, 500, 0.3)):
        for way in ("image_to_text", "text_to_image"):
            for k in (1, 5, 10):
                chance = k / size
                found[f"{name}/{way}_r{k}"] = (chance + done * reach * (1 - 1 / (1 + k)), chance)
    return found | {"numbers/top1": (0.103, 0.1), "numbers/top5": (0.509, 0.5), "numbers/mean_per_class": (0.1, 0.1)}


def _evaluate(folder: Path, learned: bool) -> None:
    evaluations = {name: {"figures": {}, "counts": {"images": 500}} for name in EVALS}
    for key, (value, chance) in _figures(float(learned)).items():
        name, _, figure = key.rpartition("/")
        evaluations[name]["figures"][figure] = {"value": value, "chance": chance}
    evaluations["numbers"]["counts"] |= {"classes": 10, "unreadable": 0}
    about = {"run": "r", "step": 600, "weights": "ema", "time": "2026-11-22T10:25:19Z"}
    (folder / "evaluation.json").write_text(json.dumps({"about": about, "evaluations": evaluations}))
    rng = np.random.default_rng(1)
    texts = np.array([NASTY, *(f"a drawing, number {n}" for n in range(23))])

    def images(*shape: int) -> np.ndarray:
        flat = rng.integers(0, 255, (*shape, 1, 1, 3))
        return np.broadcast_to(flat, (*shape, 32, 32, 3)).astype(np.uint8)

    pictures = {
        "queries": np.array(QUERIES),
        "query_scores": rng.random((2, 5)).astype(np.float32),
        "query_images": images(2, 5),
        "matrix": (np.eye(24) * 0.5 + rng.random((24, 24)) * 0.3).astype(np.float32),
        "matrix_texts": texts,
        "matrix_images": images(24),
        "failed_texts": texts[:3],
        "failed_ranks": np.array([78, 50, 9]),
        "failed_wanted": images(3),
        "failed_got": images(3),
        "failed_of": np.array([47, 500]),
    }
    np.savez_compressed(folder / "pictures.npz", **{f"gallery/{key}": value for key, value in pictures.items()})


def _write_rows(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


VOID = {"meta", "img", "br", "hr", "link", "input", "wbr"}


class Page(html.parser.HTMLParser):
    """Checks nesting while it reads; keeps tags, ids, headings, text."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def drawn(folder: Path) -> tuple[str, Page]:
    source = write_report(folder).path.read_text(encoding="utf-8")
    return source, Page(source)


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


def test_figures_that_are_not_finite_leave_gaps(run, tmp_path):
    series = read_run(run).metrics["loss"]
    assert np.isnan(series.values[series.steps == 300]).all()
    line = report_plots.Line(label="loss", series=series)
    moves = report_plots.chart([line], what="loss", key="k").count("stroke: var(--one)")
    assert moves >= 1
    path = re.search(
        r'<path d="([^"]*)"[^>]*style="[^"]*stroke: var\(--one\)', report_plots.chart([line], what="", key="k")
    )
    assert path[1].count("M") == 2


def test_long_lines_are_thinned_and_jumps_drawn_on_a_logarithmic_scale():
    steps = np.arange(100_000)
    values = np.ones(len(steps))
    values[50_000] = 1e9
    svg = report_plots.chart(
        [report_plots.Line(label="norm", series=report_plots.Series(steps=steps, values=values))], what="norm", key="k"
    )
    assert len(svg) < 40_000


def test_names_of_lines_stay_inside_the_drawing():
    series = report_plots.Series(steps=np.arange(3), values=np.arange(3.0))
    for names in (["swap accuracy", "swap pairwise", "color precision@20"], ["a name that fills a row by itself"] * 3):
        lines = [report_plots.Line(label=name, series=series, color=n) for n, name in enumerate(names)]
        svg = report_plots.chart(lines, what="w", key="k")
        width = float(re.search(r'viewBox="0 0 (\S+)', svg)[1])
        for name in names:
            left = float(re.search(rf'<text [^>]*?x="([^"]*)"[^>]*>{name}<', svg)[1])
            assert 0 < left < left + 6 * len(name) < width  # a letter is about 6 units wide


def test_every_term_of_an_objective_is_drawn(tmp_path):
    terms = ["crd", "fd_cosine", "icl", "info_nce"]
    config = dataclasses.replace(CONFIG, objective=ObjectiveConfig(weights=dict.fromkeys(terms, 1.0)))
    folder = make_run(tmp_path / "r", config=config, evaluated=False)
    rows = [{"step": step, "loss": 4.0} | dict.fromkeys(terms, 1.0) for step in (10, 20)]
    _write_rows(folder / "metrics.jsonl", rows)
    _, parsed = drawn(folder)
    loss = next(svg["aria-label"] for svg in parsed.all("svg") if svg["aria-label"].startswith("Loss"))
    assert all(f"{term.replace('_', ' ')} from 1 at step 10" in loss for term in terms)
    assert "The terms are drawn before their weights." in parsed.text


def test_heat_is_readable_at_every_place():
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for place in np.linspace(-0.1, 1.1, 49):
        low, high = sorted(luminance(color) for color in report_plots.heat(float(place)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


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
    _write_rows(folder / "metrics.jsonl", [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}])
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
    _write_rows(folder / "metrics.jsonl", [{"step": step, "loss": 1.0} | flat for step in (100, 200)])
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


def test_snippet_for_own_data_is_a_config(tmp_path):
    names: dict = {}
    exec(report_words.OWN_DATA.format(command="clip-jax"), names)
    config = names["get_config"]()
    assert config.source.kind == "webdataset"
    assert config.source.urls == "shards/{00000..00041}.tar"
