"""Several runs on one HTML page that needs nothing else: a column or a row each, of sizes, speeds, figures, pictures."""

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from clip_jax.evals.protocol import Figure, is_share
from clip_jax.evals.speed import Speed
from clip_jax.models.flops import macs_per_pair
from clip_jax.report.beside.drawings import losses, progress, quality
from clip_jax.report.beside.read import Compared, Examined, differences, examined, kept, read_compared
from clip_jax.report.beside.words import besides, headline, measures, notes, timed_alike
from clip_jax.report.figures import bar, counts_words, figure_words, value_words, verdict
from clip_jax.report.page import Report
from clip_jax.report.plots import data_uri
from clip_jax.report.render import render
from clip_jax.report.words import listing, model_words, objective_words, source_words, teachers_words
from clip_jax.writers import clock

BESIDE = "beside.html"

_SHADES = ("one", "two", "three", "four", "five", "six")  # of svg.LINES, in the page's words
_GLYPHS = "●■▲◆▼★"  # svg.MARKERS
_LONGEST = 70  # letters of a title that lists all names


def write_beside(folders: Sequence[Path], command: str = "clip-jax", out: Path | None = None) -> Report:
    """Draws runs side by side as `out`, or as beside.html in the first one's folder, which is the teacher's.

    `command`: how clip-jax is called here. Raises ValueError for a folder given twice, FileNotFoundError for one that is
    no run's; what else is missing is said on the page.
    """
    compared = read_compared(folders)
    evaluations = examined(compared)
    sentences, others = headline(compared, evaluations), besides(compared, evaluations)
    remarks = notes(compared, evaluations, command)
    chosen = measures(compared, evaluations)
    content = {
        "name": _title(compared),
        "headline": " ".join(sentences),
        "more": " ".join(others),
        "notes": remarks,
        "runs": [_run(one) for one in compared],
        "facts": _facts(compared),
        "timed": _timed(compared),
        "tables": [_table(one, compared) for one in evaluations],
        "quality": quality(compared, chosen[0] if chosen else None),
        "curves": [*losses(compared), *progress(compared, evaluations)],
        "showcases": _showcases(compared),
        "command": command,
    }
    path = out or folders[0] / BESIDE
    path.write_text(render("beside.html.j2", content), encoding="utf-8")
    return Report(path=path, lines=[*sentences, *others, *remarks, f"side by side: open {shlex.quote(str(path))}"])


def _title(compared: Sequence[Compared]) -> str:
    names = listing([one.name for one in compared])
    return names if len(names) <= _LONGEST else f"{compared[0].name} and {len(compared) - 1} others"


def _run(one: Compared) -> dict[str, str]:
    parts = re.split(r"(?<=[_/.-])", one.name)
    return {
        "name": one.name,
        "head": Markup("<wbr>").join(parts),  # a long name breaks between its words
        "role": "" if one.number or "teacher" in one.name else "teacher",
        "color": f"var(--{_SHADES[one.number % len(_SHADES)]})",
        "mark": _GLYPHS[one.number % len(_GLYPHS)],
    }


def _facts(compared: Sequence[Compared]) -> list[tuple[str, list[dict[str, str]]]]:
    """Rows of the first table: a cell a run, or a single one for texts that are equal for all."""
    runs, configs = [one.run for one in compared], [one.run.config for one in compared]
    sizes, teacher = [one.size for one in compared], compared[0]
    timed = [one.run.speed if timed_alike(one, teacher) or one is teacher else None for one in compared]
    seconds = [clock(run.seconds) if math.isfinite(run.seconds) else "unknown" for run in runs]
    return [
        ("Model", _texts([model_words(config.model) for config in configs])),
        ("Parameters", _numbers([size.parameters for size in sizes], ",.0f")),
        ("of the image tower", _numbers([size.image for size in sizes], ",.0f")),
        ("of the text tower", _numbers([size.text for size in sizes], ",.0f")),
        ("Megabytes, float32", _numbers([size.megabytes(32) for size in sizes], ",.1f")),
        ("Megabytes, float16", _numbers([size.megabytes(16) for size in sizes], ",.1f")),
        ("GMACs a pair", _numbers([macs_per_pair(config.model) / 1e9 for config in configs], ".3g")),
        ("Images encoded a second", _rates([run.speed and run.speed.images for run in runs], timed, "images_spread")),
        ("Texts encoded a second", _rates([run.speed and run.speed.texts for run in runs], timed, "texts_spread")),
        ("Objective", _texts([objective_words(config.objective) for config in configs])),
        ("Teachers", _texts([teachers_words(config.teachers) or "none" for config in configs])),
        ("Started from", _texts([config.init_from or "random weights" for config in configs])),
        ("Trained on", _texts([source_words(config.source) for config in configs])),
        ("Pairs seen", _numbers([one.pairs or math.nan for one in compared], ",.0f")),
        ("Time in training", _texts(seconds)),
        ("Pairs trained a second", _numbers([run.pairs_per_second for run in runs], ",.0f")),
    ]


def _texts(values: Sequence[str]) -> list[dict[str, str]]:
    return [{"value": value, "ratio": ""} for value in (values[:1] if len(set(values)) == 1 else values)]


def _numbers(values: Sequence[float], form: str) -> list[dict[str, str]]:
    """The first is the teacher's, which the others are compared with."""
    return [
        {
            "value": f"{value:{form}}" if math.isfinite(value) else "unknown",
            "ratio": _ratio(value, values[0]) if n else "",
        }
        for n, value in enumerate(values)
    ]


def _rates(values: Sequence[float | None], timed: Sequence[Speed | None], spread: str) -> list[dict[str, str]]:
    """timed: where the rates compare with the teacher's."""
    cells = []
    for number, (value, speed) in enumerate(zip(values, timed, strict=True)):
        around = f" ± {getattr(speed, spread) / 2:.0%}" if speed else ""
        first = values[0] if number and speed else None
        ratio = f"{value / first:.1f} x" if value and first else ""
        cells.append({"value": f"{value:,.0f}{around}" if value else "not measured", "ratio": ratio})
    return cells


def _ratio(value: float, whole: float) -> str:
    if not (math.isfinite(value) and whole > 0):
        return ""
    ratio = value / whole
    return f"{ratio:.1f} x" if ratio >= 1.995 else f"{ratio:.0%}"


def _timed(compared: Sequence[Compared]) -> str:
    """On what, where that is the same for all that were timed."""
    speeds = [one.run.speed for one in compared if one.run.speed]
    ways = {f"{speed.device}, batches of {speed.batch_size:,}, {speed.dtype}" for speed in speeds}
    return ways.pop() if len(ways) == 1 else ""


def _table(one: Examined, compared: Sequence[Compared]) -> dict[str, Any]:
    counts = next((counts for counts in one.counts if counts), {})
    return {
        "name": one.name,
        "about": counts_words(one.kind.replace("_", "-"), counts),
        "differs": one.differs,
        "rows": [_row(one, figure) for figure in one.figures],
    }


def _row(one: Examined, figure: str) -> dict[str, Any]:
    chance, numbers = one.chance(figure), one.figures[figure]
    whole = numbers[0] and Figure(value=numbers[0].value, chance=chance)
    learned = whole is not None and not verdict(figure, whole, one.counts[0]) and not one.differs
    cells = []
    for place, (number, counts) in enumerate(zip(numbers, one.counts, strict=True)):
        if number is None:
            cells.append({"value": ""})
            continue
        with_chance = Figure(value=number.value, chance=chance)
        share = kept(with_chance, whole) if place and whole and learned and is_share(figure) else math.nan
        below = verdict(figure, with_chance, counts)
        cells.append(
            {
                "value": value_words(figure, number.value),
                "kept": f"{share:.0%}" if math.isfinite(share) and share >= 0 and not below else "",
                "verdict": below,
                "bar": bar(figure, with_chance),
            }
        )
    return {"figure": figure_words(figure), "chance": value_words(figure, chance) or "unknown", "cells": cells}


def _showcases(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for one in compared for name, out in one.run.outcomes.items() if out.pictures)
    return [_showcase(name, compared) for name in names]


def _showcase(name: str, compared: Sequence[Compared]) -> dict[str, Any]:
    """Of every query the pictures each run found, with those marked that the teacher found too."""
    answers = [_answers(one, name) for one in compared]
    texts = list(dict.fromkeys(text for found in answers for text in found))
    shared, of = [0] * len(compared), [0] * len(compared)
    queries = []
    for text in texts:
        teachers = {image.tobytes() for _, image in answers[0].get(text, ())}
        rows = []
        for one in compared:
            hits = [(score, image, image.tobytes() in teachers) for score, image in answers[one.number].get(text, ())]
            common = sum(same for _, _, same in hits)
            if one.number and teachers and hits:
                shared[one.number] += common
                of[one.number] += len(hits)
            rows.append(
                {
                    "run": _run(one),
                    "shared": f"{common} of {len(hits)} as the teacher" if one.number and teachers and hits else "",
                    "hits": [
                        {"score": f"{score:.2f}", "image": data_uri(image), "shared": same and one.number > 0}
                        for score, image, same in hits
                    ],
                }
            )
        queries.append({"text": text, "rows": rows})
    parts = [f"{one.name} {shared[one.number]} of {of[one.number]}" for one in compared if of[one.number]]
    galleries = {one.run.outcomes[name].counts.get("images", 0) for one in compared if name in one.run.outcomes}
    return {
        "name": name,
        "summary": f"Pictures that are also among the teacher's for the same text: {listing(parts)}." if parts else "",
        "marked": bool(parts),
        "gallery": f"{galleries.pop():,}" if len(galleries) == 1 and 0 not in galleries else "",
        "differs": differences(compared, name),
        "queries": queries,
    }


def _answers(one: Compared, name: str) -> dict[str, list[tuple[float, np.ndarray]]]:
    """query -> its pictures u8[S, S, 3] with their cosines, best first."""
    outcome = one.run.outcomes.get(name)
    if outcome is None or not outcome.pictures:
        return {}
    parts = (outcome.pictures[part] for part in ("queries", "query_scores", "query_images"))
    return {
        str(query): list(zip(scores.tolist(), images, strict=True))
        for query, scores, images in zip(*parts, strict=True)
    }
