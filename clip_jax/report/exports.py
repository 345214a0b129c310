"""A folder of exports as one HTML page: each file's size, speed, and how near it is to the model it was made of."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_jax.export import record as records
from clip_jax.export.card import explained
from clip_jax.export.measure import TOP
from clip_jax.export.record import Exported, Record
from clip_jax.models.size import size
from clip_jax.report.page import Report
from clip_jax.report.render import render
from clip_jax.report.words import model_words
from clip_jax.run_folder import REPORT

_SAID = {"image": "Image tower", "text": "Text tower", "joint": "Both towers in one file"}


def write_exports(folder: Path, out: Path | None = None) -> Report:
    """Draws folder/report.html, or the file `out`. Raises ValueError for a record that is damaged."""
    found = records.read(folder)
    path = out or folder / REPORT
    towers = [tower for tower in _SAID if any(file.tower == tower for file in found.files)]
    content = {
        "name": folder.resolve().name,
        "source": found.source,
        "facts": _facts(found),
        "tables": [_table(tower, [file for file in found.files if file.tower == tower]) for tower in towers],
        "overlaps": [(name, f"{100 * share:.1f}%", f"{100 * share:.1f}") for name, share in found.overlaps.items()],
        "explained": explained(found),
        "top": TOP,
        "made_with": ", ".join(f"{package} {version}" for package, version in found.made_with.items()),
    }
    path.write_text(render("exports.html.j2", content), encoding="utf-8")
    smallest = min(found.files, key=lambda file: file.bytes)
    said = (
        f"{len(found.files)} files of {found.source}; the smallest is {smallest.path} with {smallest.bytes / 1e6:.2f} MB, which "
        f"keeps {smallest.overlap:.1%} of the first {TOP} images of each caption"
    )
    return Report(path=path, lines=[said, f"the report: open {shlex.quote(str(path))}"])


def _facts(found: Record) -> list[tuple[str, str]]:
    counted = size(found.model)
    return [
        ("model", model_words(found.model)),
        ("parameters, image tower", f"{counted.image:,}"),
        ("parameters, text tower", f"{counted.text:,}"),
        ("embeddings", f"{found.model.embed_dim} numbers"),
        ("checked on", f"{found.samples} images and captions"),
    ]


def _table(tower: str, files: Sequence[Exported]) -> dict[str, Any]:
    largest, slowest = max(file.bytes for file in files), max(file.p50 or 0.0 for file in files)
    rows = [
        {
            "kind": file.path.split("/")[0],
            "megabytes": f"{file.bytes / 1e6:.2f}",
            "size": {"width": f"{100 * file.bytes / largest:.1f}", "mark": ""},
            "p50": "" if file.p50 is None else f"{file.p50:.1f}",
            "p95": "" if file.p95 is None else f"{file.p95:.1f}",
            "time": {"width": "" if file.p50 is None else f"{100 * file.p50 / (slowest or 1):.1f}", "mark": ""},
            "largest": f"{file.largest:.1e}",
            "mean": f"{file.mean:.1e}",
            "cosine": f"{file.cosine:.6f}",
            "overlap": f"{100 * file.overlap:.1f}%",
            "batch": "any" if file.batch is None else str(file.batch),
        }
        for file in files
    ]
    return {"tower": tower, "title": _SAID[tower], "rows": rows}
