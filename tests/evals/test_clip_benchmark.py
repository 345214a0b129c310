"""Figures in CLIP_benchmark's schema, read as its own tool does."""

import csv
import json
import math
from pathlib import Path

from clip_jax.evals.clip_benchmark import benchmark_rows, write_benchmark
from clip_jax.evals.clip_datasets import CLIP_DATASETS, linear_probe, zero_shot
from clip_jax.evals.colors import ColorsConfig
from clip_jax.evals.protocol import Figure, Outcome
from clip_jax.evals.retrieval import RETRIEVAL_FIGURES, RetrievalConfig
from clip_jax.evals.suite import EvalConfig

EVALS: dict[str, EvalConfig] = {
    "pets": zero_shot("pets"),
    "pets_probe": linear_probe("pets"),
    "mnist": zero_shot("mnist"),
    "coco": RetrievalConfig(exact=True),
    "colors": ColorsConfig(),
}
# What `clip_benchmark eval` puts into an object of each task.
METRICS = {
    "zeroshot_classification": {"acc1", "acc5", "mean_per_class_recall"},
    "linear_probe": {"lp_acc1", "lp_acc5", "lp_mean_per_class_recall"},
    "zeroshot_retrieval": {f"{what}_retrieval_recall@{k}" for what in ("image", "text") for k in (1, 5, 10)},
}


def outcome(**values: float) -> Outcome:
    return Outcome(figures={key: Figure(value=value, chance=None) for key, value in values.items()}, counts={})


OUTCOMES = {
    "pets": outcome(mean_per_class=0.7, top1=0.75, top5=0.9),
    "pets_probe": outcome(mean_per_class=0.8, top1=0.85),
    "mnist": outcome(top1=0.5, top5=math.nan, mean_per_class=0.4),
    "coco": outcome(**{name: (place + 1) / 10 for place, name in enumerate(RETRIEVAL_FIGURES)}),
    "colors": outcome(swap_accuracy=0.5),
}


def test_each_object_is_as_theirs():
    rows = benchmark_rows(OUTCOMES, EVALS, model="student", pretrained="step-5-ema")
    assert rows[0] == {
        "dataset": "vtab/pets",
        "model": "student",
        "pretrained": "step-5-ema",
        "task": "zeroshot_classification",
        "metrics": {"acc1": 0.75, "acc5": 0.9, "mean_per_class_recall": 0.7},
        "language": "en",
    }
    assert [(row["dataset"], row["task"]) for row in rows[1:]] == [
        ("vtab/pets", "linear_probe"),
        ("mnist", "zeroshot_classification"),
        ("coco", "zeroshot_retrieval"),
    ]
    assert rows[1]["metrics"] == {"lp_acc1": 0.85, "lp_mean_per_class_recall": 0.8}
    assert rows[2]["metrics"] == {"acc1": 0.5, "mean_per_class_recall": 0.4}  # not finite: left out
    # text to image is their image retrieval; RETRIEVAL_FIGURES has image to text first
    assert rows[3]["metrics"]["image_retrieval_recall@1"] == 0.4
    assert rows[3]["metrics"]["text_retrieval_recall@5"] == 0.2
    for row in rows:
        assert row["metrics"].keys() <= METRICS[row["task"]]


def build(files: list[Path], output: Path) -> None:
    """As `clip_benchmark build` makes one table of many files: metrics and all else are columns."""
    rows = []
    for file in files:
        data = json.loads(file.read_text())
        row = data["metrics"] | data
        del row["metrics"]
        rows.append(row | {"model_fullname": f"{row['model']} {row['pretrained']}"})
    with output.open("w") as stream:
        writer = csv.DictWriter(stream, fieldnames=sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)


def test_their_tool_reads_the_files(tmp_path):
    for model in "ab":
        write_benchmark(tmp_path / model, benchmark_rows(OUTCOMES, EVALS, model=model, pretrained="p"))
    files = sorted(tmp_path.glob("*/*.json"))
    assert len(files) == 8
    build(files, tmp_path / "benchmark.csv")
    table = list(csv.DictReader((tmp_path / "benchmark.csv").open()))
    assert {row["model_fullname"] for row in table} == {"a p", "b p"}
    assert [row["acc1"] for row in table if row["dataset"] == "mnist"] == ["0.5", "0.5"]


def test_files_of_an_earlier_evaluation_go(tmp_path):
    for names in (("pets", "mnist"), ("mnist",)):
        rows = benchmark_rows({name: OUTCOMES[name] for name in names}, EVALS, model="m", pretrained="p")
        write_benchmark(tmp_path, rows)
    assert [file.name for file in tmp_path.iterdir()] == ["mnist_zeroshot_classification.json"]


def test_files_that_others_wrote_stay(tmp_path):
    theirs = {"imagenet.json": '{"model": "ViT-B-32", "pretrained": "openai"}', "x.json": "{", "y.json": "[]"}
    for name, content in theirs.items():
        (tmp_path / name).write_text(content)
    write_benchmark(tmp_path, benchmark_rows({"mnist": OUTCOMES["mnist"]}, EVALS, model="m", pretrained="p"))
    assert {name: (tmp_path / name).read_text() for name in theirs} == theirs


def test_names_of_files_are_distinct():
    evals = {name: zero_shot(name) for name in CLIP_DATASETS}
    rows = benchmark_rows(dict.fromkeys(evals, outcome(top1=1.0)), evals, model="m", pretrained="p")
    assert len({row["dataset"] for row in rows}) == len(evals)
