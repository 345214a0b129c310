"""Runs side by side: what the page says of a teacher and its students, and what it makes of runs that do not compare."""

import dataclasses
import json
import re
import shutil
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

from clip_jax.cli import report as command
from clip_jax.evals.protocol import Figure
from clip_jax.models.flops import macs_per_pair
from clip_jax.models.presets import preset
from clip_jax.models.size import size
from clip_jax.objectives import ObjectiveConfig
from clip_jax.plain import to_dict
from clip_jax.report import write_report
from clip_jax.report.beside import words, write_beside
from clip_jax.report.beside.read import distinct_names, examined, kept, read_compared
from clip_jax.report.read import read_run
from clip_jax.report.scatter import Point, scatter
from clip_jax.report.scatter import _spread as spread
from clip_jax.teachers import StoreTeacher
from tests.recorded_run import CONFIG, NASTY, Page, make_run

TINY = preset("tiny")
HALF = dataclasses.replace(
    CONFIG,
    model=dataclasses.replace(
        TINY,
        vision_cfg=dataclasses.replace(TINY.vision_cfg, width=64, layers=2),
        text_cfg=dataclasses.replace(TINY.text_cfg, width=64, layers=2),
    ),
)
TAUGHT = dataclasses.replace(
    HALF,
    objective=ObjectiveConfig(weights={"info_nce": 1.0, "crd": 1.0}),
    teachers={"big": StoreTeacher(path="stores/big")},
)
SPEED = {"images": 1000.0, "texts": 2000.0, "images_spread": 0.1, "texts_spread": 0.1, "rounds": 9}
SPEED |= {"batch_size": 256, "device": "CPU (2 cores)", "dtype": "float32"}


def make(folder: Path, *, config=CONFIG, keeps: float = 1.0, speed: float = 1.0, same_pictures: int = 5) -> Path:
    """A run that keeps such a share of recorded_run's figures above chance, and finds so many of its five pictures."""
    make_run(folder, config=config)
    file = folder / "evaluation.json"
    content = json.loads(file.read_text())
    content["about"]["speed"] = SPEED | {"images": speed * SPEED["images"]}
    for evaluation in content["evaluations"].values():
        for figure in evaluation["figures"].values():
            figure["value"] = figure["chance"] + keeps * (figure["value"] - figure["chance"])
    file.write_text(json.dumps(content))
    with np.load(folder / "pictures.npz") as arrays:
        pictures = dict(arrays)
    pictures["gallery/query_images"][:, same_pictures:] ^= 1
    np.savez(folder / "pictures.npz", **pictures)
    return folder


def change(folder: Path, name: str, changed) -> None:
    """Changes a JSON file of a run by a function."""
    content = json.loads((folder / name).read_text())
    changed(content)
    (folder / name).write_text(json.dumps(content))


def page_of(folders: list[Path], **options) -> tuple[str, Page]:
    source = write_beside(folders, **options).path.read_text(encoding="utf-8")
    return source, Page(source)


def row(source: str, label: str) -> list[str]:
    """Texts of the cells of a table's row."""
    found = re.search(rf'<tr><th scope="row">{re.escape(label)}</th>(.*?)</tr>', source)
    assert found, label
    cells = re.findall(r"<td[^>]*>(.*?)</td>", found[1])
    return [" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in cells]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    runs = tmp_path_factory.mktemp("runs")
    return [
        make(runs / "big"),
        make(runs / "distilled", config=TAUGHT, keeps=0.9, speed=4.0, same_pictures=4),
        make(runs / "alone", config=HALF, keeps=0.5, speed=4.0, same_pictures=1),
    ]


@pytest.fixture(scope="module")
def page(three) -> tuple[str, Page]:
    return page_of(three)


def test_the_headline_says_what_each_student_keeps(page):
    _, parsed = page
    assert (
        "On icons, distilled keeps 90% of the teacher's text to image R@1 (36.3% of 40.3%, chance 0.33%), at 44% of its "
        "size, and encodes images about 4.0 times as fast." in parsed.text
    )
    assert "Without a teacher the same student (alone) keeps 50% (20.3%)." not in parsed.text
    assert "Without a teacher the same student (alone) keeps 50% of it (20.3%)." in parsed.text
    assert "the teacher did harm" not in parsed.text
    assert "within the noise" not in parsed.text


@pytest.mark.parametrize(
    ("taught", "alone", "wanted"),
    [
        (0.6, 0.6, "within the noise"),
        (0.5, 0.9, "So the teacher did harm."),
        (1.1, 0.5, "reaches 110%"),
        (0, 0, "is at chance"),
    ],
)
def test_the_headline_is_honest(tmp_path, taught, alone, wanted):
    folders = [make(tmp_path / "t"), make(tmp_path / "d", config=TAUGHT, keeps=taught)]
    folders.append(make(tmp_path / "a", config=HALF, keeps=alone))
    compared = read_compared(folders)
    sentences = " ".join(words.headline(compared, examined(compared)))
    assert wanted in sentences
    assert ("it keeps nothing" in sentences) == (taught == 0)


def test_shares_of_a_few_hits_are_left_out(tmp_path):
    folders = [make(tmp_path / "t"), make(tmp_path / "s", config=HALF, keeps=0.9)]

    def again(content):
        evaluations = content["evaluations"]
        evaluations["again"] = evaluations["icons"]

    for folder in folders:
        change(folder, "evaluation.json", again)
    compared = read_compared(folders)
    sentences = " ".join(words.besides(compared, examined(compared)))
    assert "Over the 3 evaluations that tell this figure well, s keeps 90% " in sentences

    def few(content):
        for figure in content["evaluations"]["again"]["figures"].values():
            figure["value"] = 1.5 * figure["chance"]  # half a hit above it

    for folder in folders:
        change(folder, "evaluation.json", few)
    compared = read_compared(folders)
    assert "Over the 2 evaluations" in " ".join(words.besides(compared, examined(compared)))


def test_a_teacher_that_learned_nothing_has_nothing_to_keep(tmp_path):
    folders = [make(tmp_path / "t", keeps=0), make(tmp_path / "s", config=HALF)]
    compared = read_compared(folders)
    said = words.headline(compared, examined(compared))
    assert said == [
        "On what it shares with a student, t itself is not above chance: there is nothing to keep.",
        "s is 44% of its size.",
    ]


def test_sizes_and_speeds_stand_beside_each_other(page):
    source, _ = page
    big, half = size(TINY), size(HALF.model)
    assert row(source, "Parameters") == [f"{big.parameters:,}", *[f"{half.parameters:,} 44%"] * 2]
    assert row(source, "of the image tower") == [f"{big.image:,}", *[f"{half.image:,} 15%"] * 2]
    assert row(source, "Megabytes, float32")[0] == f"{4e-6 * big.parameters:.1f}"
    assert row(source, "Megabytes, float16")[0] == f"{2e-6 * big.parameters:.1f}"
    assert row(source, "GMACs a pair")[0] == f"{macs_per_pair(TINY) / 1e9:.3g}"
    assert row(source, "Images encoded a second") == ["1,000 ± 5%", *["4,000 ± 5% 4.0 x"] * 2]
    assert row(source, "Objective") == ["info_nce x 1", "info_nce x 1 and crd x 1", "info_nce x 1"]
    assert row(source, "Teachers") == ["none", "a store (stores/big)", "none"]
    assert row(source, "Started from") == ["random weights (all)"]
    assert row(source, "Trained on") == ["glyphs (split train) (all)"]
    assert row(source, "Time in training") == ["3:12 (all)"]


def test_figures_stand_beside_each_other_with_chance(page):
    source, _ = page
    assert row(source, "text to image R@1") == ["0.33%", "40.3%", "36.3% 90%", "20.3% 50%"]
    assert row(source, "top-1") == ["10.0%", "10.3% at chance", "10.3% at chance", "10.2% at chance"]


def test_pictures_that_the_teacher_found_too_are_framed(page):
    source, parsed = page
    assert "also among the teacher's for the same text: distilled 8 of 10 and alone 2 of 10." in parsed.text
    assert source.count('<img class="shared"') == 8 + 2
    assert "4 of 5 as the teacher" in parsed.text
    assert len(parsed.all("img")) == 3 * 2 * 5


def test_the_page_is_well_formed_loads_nothing_and_escapes(page):
    source, parsed = page
    assert "<script" not in source
    assert "http:" not in source
    assert "https:" not in source
    assert NASTY in parsed.text
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in parsed.all("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in parsed.all("svg"))
    assert all(th["scope"] in ("row", "col") for th in parsed.all("th"))
    assert parsed.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(parsed.headings, parsed.headings[1:], strict=False))
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in (*parsed.all("a"), *parsed.all("use"))} <= set(ids)
    drawn = [svg["aria-label"] for svg in parsed.all("svg")]
    assert any("text to image R@1 on icons against million parameters: big 40.3% at 7.775" in what for what in drawn)


def test_other_sets_under_one_name_are_not_compared(tmp_path):
    folders = [make(tmp_path / "t"), make(tmp_path / "s", config=HALF, keeps=0.9)]

    def larger(content):
        content["evals"]["icons"]["limit"] = 500

    change(folders[1], "config.json", larger)
    source, parsed = page_of(folders)
    assert (
        "icons is not the same for all runs, so its figures do not compare: limit is 0 for t and 500 for s."
        in parsed.text
    )
    assert row(source, "text to image R@1")[1:] == ["40.3%", "36.3%"]
    assert f"On {NASTY}, s keeps 90%" in parsed.text  # the other retrieval speaks instead

    def recorded(content):
        content["about"]["evals"] = to_dict(CONFIG.evals)

    change(folders[1], "evaluation.json", recorded)  # what was measured counts, not what training had in mind
    assert "is not the same" not in page_of(folders)[1].text

    def more(content):
        content["evaluations"]["icons"]["counts"]["images"] = 7

    change(folders[1], "evaluation.json", more)
    assert "images is 500 for t and 7 for s" in page_of(folders)[1].text


def test_runs_that_lack_pieces_are_shown_with_what_there_is(tmp_path):
    folders = [make(tmp_path / "t"), make(tmp_path / "s", config=HALF, keeps=0.9), make(tmp_path / "bare", config=HALF)]
    (folders[1] / "evaluation.json").unlink()
    (folders[1] / "pictures.npz").unlink()
    for file in folders[2].iterdir():
        if file.name != "config.json":
            file.unlink()
    source, parsed = page_of(folders, command="clip-jax")
    for said in (
        f"s was not evaluated: its figures are the last ones from training. Run clip-jax evaluate {folders[1]}",
        f"bare was not evaluated: it has no figures. Run clip-jax evaluate {folders[2]}",
        "bare: metrics.jsonl is missing: nothing is known of the training.",
    ):
        assert said in parsed.text
    assert row(source, "text to image R@1") == ["0.33%", "40.3%", "40.3% 100%", "-"]
    assert row(source, "Images encoded a second") == ["1,000 ± 5%", "not measured", "not measured"]
    assert row(source, "Time in training") == ["3:12", "3:12", "unknown"]
    assert parsed.text.count("not asked") == 4


def test_unequal_training_of_one_model_is_said(tmp_path):
    folders = [make(tmp_path / "t"), make(tmp_path / "a", config=HALF), make(tmp_path / "b", config=TAUGHT)]
    assert "unequally" not in page_of(folders)[1].text
    change(folders[2], "config.json", lambda content: content.update(batch_size=32))
    said = "The same model was trained unequally: a saw 38,400 pairs and b saw 19,200 pairs."
    assert said in page_of(folders)[1].text


def test_losses_of_single_teachers_are_no_evaluations(tmp_path):
    folder = make(tmp_path / "s", config=TAUGHT)
    (folder / "evaluation.json").unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 600, "crd": 1.0, "crd/big": 1.0, "crd/other": 1.0}) + "\n")
    assert "crd" not in read_run(folder).outcomes
    assert "<strong>crd</strong>" not in write_report(folder).path.read_text()


def test_runs_without_a_common_evaluation_say_so(tmp_path):
    folders = [make(tmp_path / "t"), make(tmp_path / "s", config=HALF)]

    def renamed(content):
        content["evaluations"] = {f"my {name}": entry for name, entry in content["evaluations"].items()}

    change(folders[1], "evaluation.json", renamed)
    _, parsed = page_of(folders)
    assert (
        "These runs share no evaluation, so nothing says how much of the teacher's quality a student keeps."
        in parsed.text
    )
    assert "No figure is shared by these runs" in parsed.text


def test_speeds_of_other_devices_are_not_compared(tmp_path):
    folders = [make(tmp_path / "t"), make(tmp_path / "s", config=HALF, speed=9.0)]

    def elsewhere(content):
        content["about"]["speed"]["device"] = "TPU v5e"

    change(folders[1], "evaluation.json", elsewhere)
    source, parsed = page_of(folders)
    assert row(source, "Images encoded a second") == ["1,000 ± 5%", "9,000"]
    assert "Speeds do not compare: t on CPU (2 cores) in batches of 256, float32 and s on TPU v5e" in parsed.text
    assert "times as fast" not in parsed.text


def test_a_students_evaluation_gives_the_teachers_figures_too(tmp_path):
    folders = [make(tmp_path / "t"), make(tmp_path / "s", config=HALF)]

    def colors(content):
        figures = {
            "swap_accuracy": {"value": 0.4, "chance": 0.1},
            "teacher_swap_accuracy": {"value": 0.7, "chance": 0.1},
        }
        content["evaluations"]["colors"] = {"figures": figures, "counts": {"images": 500}}
        tau = {"overlap_at_20": {"value": 0.6, "chance": 0.04}, "kendall_tau": {"value": -0.31, "chance": -0.6}}
        content["evaluations"]["agreement"] = {"figures": tau, "counts": {"images": 500}}
        content["about"]["evals"] = to_dict(CONFIG.evals) | {"colors": {"kind": "colors", "teacher": "runs/t"}}
        content["about"]["evals"]["agreement"] = {"kind": "agreement", "teacher": "runs/t"}

    change(folders[1], "evaluation.json", colors)
    source, parsed = page_of(folders)
    assert row(source, "swap accuracy") == ["10.0%", "70.0%", "40.0% 50%"]
    assert row(source, "kendall tau") == ["-0.600", "-", "-0.310"]
    assert "teacher swap accuracy" not in parsed.text
    assert "Agreement with the teacher, overlap@20: s 60.0% (chance 4.0%)." in parsed.text
    assert "Not made for t" not in parsed.text

    def own(content):
        content["evaluations"]["colors"] = {
            "figures": {"swap_accuracy": {"value": 0.8, "chance": 0.1}},
            "counts": {"images": 500},
        }

    change(folders[0], "evaluation.json", own)
    source, parsed = page_of(folders)
    assert row(source, "swap accuracy") == ["10.0%", "80.0%", "40.0% 43%"]
    assert "teacher swap accuracy" not in parsed.text
    change(
        folders[1], "evaluation.json", lambda content: content["about"]["evals"]["colors"].update(teacher="runs/other")
    )
    source, parsed = page_of(folders)
    assert "The teacher of colors is runs/other, not t." in parsed.text
    assert row(source, "teacher swap accuracy") == ["10.0%", "-", "70.0%"]


def test_names_are_as_long_as_it_takes_to_tell_them_apart(tmp_path):
    paths = [Path("/runs/a/student"), Path("/runs/b/student"), Path("/runs/teacher")]
    assert distinct_names(paths) == ["a/student", "b/student", "runs/teacher"]
    assert distinct_names(paths[1:]) == ["student", "teacher"]
    folder = make_run(tmp_path / "r")
    with pytest.raises(ValueError, match="r is given twice; give different run folders"):
        write_beside([folder, tmp_path / "." / "r"])
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        write_beside([folder, tmp_path / "nowhere"])


def test_seven_runs_with_long_names_each_have_a_mark_of_their_own(tmp_path):
    folders = [make_run(tmp_path / "t")]
    for number in range(6):
        folders.append(tmp_path / f"a student whose folder has a very long name indeed, number {number}")
        shutil.copytree(folders[0], folders[-1])
    source, parsed = page_of(folders)
    assert "t and 6 others" in parsed.text
    first = xml.etree.ElementTree.fromstring(re.search(r"<svg.*?</svg>", source, re.S)[0])
    assert len([text for text in first.iter("text") if text.text and text.text.endswith("…")]) == 6


def test_command_line(three, tmp_path, capsys):
    assert command.main(["clip-jax report", *map(str, three), "--out", str(tmp_path / "p.html")]) == 0
    assert "On icons, distilled keeps 90%" in capsys.readouterr().out
    assert (tmp_path / "p.html").stat().st_size > 10_000
    assert command.main(["clip-jax report", *map(str, three[:2])]) == 0
    assert (three[0] / "beside.html").is_file()
    with pytest.raises(ValueError, match=r"there is no folder .*; make it first"):
        command.main(["clip-jax report", str(three[0]), "--out", str(tmp_path / "no" / "p.html")])


@pytest.mark.parametrize(
    ("value", "teacher", "chance", "share"), [(0.3, 0.5, 0.1, 0.5), (0.05, 0.5, 0.1, -0.125), (0.3, 0.5, None, 0.6)]
)
def test_what_is_kept_counts_above_chance(value, teacher, chance, share):
    assert kept(Figure(value=value, chance=chance), Figure(value=teacher, chance=chance)) == pytest.approx(share)
    assert np.isnan(kept(Figure(value=value, chance=0.5), Figure(value=0.5, chance=0.5)))


FRACTIONS = {0.5: "half", 0.205: "a fifth", 0.44: "44%", 0.137: "a seventh", 0.051: "a twentieth", 0.01: "1%"}


@pytest.mark.parametrize(("ratio", "said"), [*FRACTIONS.items(), (1.6, "1.6 times"), (20.4, "20 times")])
def test_fractions(ratio, said):
    assert words.fraction(ratio) == said


def test_names_beside_points_lie_apart():
    heights = spread([0.5, 0.5, 0.52, 0.1])
    assert min(abs(a - b) for n, a in enumerate(heights) for b in heights[:n]) > 0.08
    assert heights[3] == pytest.approx(0.1)
    points = [Point(name=f"n{n}", x=10.0**n, y=0.1 * n, color=n) for n in range(8)]
    assert scatter(points, what="w", x_label="x", level=None, key="k").count("<text") >= 8
