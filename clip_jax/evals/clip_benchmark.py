"""Figures as CLIP_benchmark writes them, a JSON object a file, so that its tools read ours: `clip_benchmark build FOLDER/*.json`.

Only where both measure the same: zero-shot classification, retrieval, linear probe. Its retrieval takes nothing but the pair
itself for right, which ours does with `exact`; without it, as of the embedded drawings, equal captions stand for each other.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_jax.durable import write_durably
from clip_jax.evals.linear_probe import LinearProbeConfig
from clip_jax.evals.protocol import Outcome
from clip_jax.evals.retrieval import RetrievalConfig
from clip_jax.evals.suite import EvalConfig
from clip_jax.evals.zero_shot import ZeroShotConfig

FOLDER = "clip_benchmark"

# evaluation, as the suites name it -> CLIP_benchmark's data set; others keep their names
_DATASETS = {
    "caltech101": "vtab/caltech101",
    "dtd": "vtab/dtd",
    "eurosat": "vtab/eurosat",
    "flowers102": "vtab/flowers",
    "imagenet": "imagenet1k",
    "pcam": "vtab/pcam",
    "pets": "vtab/pets",
    "resisc45": "vtab/resisc45",
}
_RECALLS = {
    f"{what}_retrieval_recall@{k}": f"{way}_r{k}"
    for what, way in (("image", "text_to_image"), ("text", "image_to_text"))
    for k in (1, 5, 10)
}
_ACCURACIES = {"acc1": "top1", "acc5": "top5", "mean_per_class_recall": "mean_per_class"}
_TASKS: dict[type, tuple[str, Mapping[str, str]]] = {  # its task, and its metrics -> our figures
    ZeroShotConfig: ("zeroshot_classification", _ACCURACIES),
    RetrievalConfig: ("zeroshot_retrieval", _RECALLS),
    LinearProbeConfig: ("linear_probe", {f"lp_{theirs}": ours for theirs, ours in _ACCURACIES.items()}),
}


def benchmark_rows(
    outcomes: Mapping[str, Outcome], evals: Mapping[str, EvalConfig], *, model: str, pretrained: str
) -> list[dict[str, Any]]:
    """One object an evaluation that CLIP_benchmark knows the task of; what was not measured (top-5 of few classes) or is not
    finite is left out. model, pretrained: which weights, in its two columns; together they are its `model_fullname`."""
    rows = []
    for name, outcome in outcomes.items():
        if type(evals[name]) not in _TASKS:
            continue
        task, names = _TASKS[type(evals[name])]
        figures = {theirs: outcome.figures[ours].value for theirs, ours in names.items() if ours in outcome.figures}
        base = name.removesuffix("_probe")
        rows.append(
            {
                "dataset": _DATASETS.get(base, base),
                "model": model,
                "pretrained": pretrained,
                "task": task,
                "metrics": {theirs: value for theirs, value in figures.items() if math.isfinite(value)},
                "language": "en",
            }
        )
    return rows


def write_benchmark(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Each row as DATASET_TASK.json in the folder, in the place of those of an earlier evaluation of the same model; what others
    wrote there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{row['dataset']}_{row['task']}.json".replace("/", "_") for row in rows]
    ours = [_model_in(row) for row in rows]
    for old in folder.glob("*.json"):
        if old.name not in names and _model_of(old) in ours:
            old.unlink()
    for name, row in zip(names, rows, strict=True):
        write_durably(folder / name, [(json.dumps(row) + "\n").encode()])


def _model_of(file: Path) -> tuple[str, str] | None:
    try:
        return _model_in(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError):
        return None


def _model_in(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["model"], row["pretrained"]
