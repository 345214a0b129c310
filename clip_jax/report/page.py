"""A run folder as one HTML page that needs nothing else: curves, tables against chance, pictures, failures, what next."""

import dataclasses
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.evals.protocol import Outcome, is_share
from clip_jax.models.clip import count_parameters
from clip_jax.plain import to_dict
from clip_jax.report.curves import curves, evaluation_curves, skips, speed_curves
from clip_jax.report.figures import apart, bar, counts_words, figure_words, percent, times, value_words, verdict
from clip_jax.report.plots import data_uri, heat
from clip_jax.report.read import Recorded, Series, read_run
from clip_jax.report.render import render
from clip_jax.report.words import (
    OWN_DATA,
    failed,
    learned,
    loader_wait,
    model_words,
    next_steps,
    objective_words,
    source_words,
    teachers_words,
)
from clip_jax.run_folder import REPORT
from clip_jax.writers import clock

_BEST, _TRIES = 3, 2  # lines for the terminal
_WORST_SHARDS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """path: of the page. lines: for the terminal, what was learned, where the page is, what to try next."""

    path: Path
    lines: list[str]


def write_report(folder: Path, command: str = "clip-jax", out: Path | None = None) -> Report:
    """Draws folder/report.html, or the file `out`. `command`: how clip-jax is called here, for the commands that it suggests.

    Raises FileNotFoundError for a folder that is no run's or has no figures yet.
    """
    run = read_run(folder)
    path = out or folder / REPORT
    path.write_text(render("report.html.j2", _content(run, command)), encoding="utf-8")
    return Report(path=path, lines=_lines(run, path, command))


def _content(run: Recorded, command: str) -> dict[str, Any]:
    return {
        "name": run.folder.resolve().name,
        "learned": learned(run),
        "facts": _facts(run),
        "problems": run.problems,
        "curves": [*curves(run), *speed_curves(run)],
        "skips": skips(run),
        "evaluation_curves": evaluation_curves(run),
        "tables": _tables(run),
        "measured": run.measured,
        "evaluate": f"{command} evaluate {shlex.quote(str(run.folder))}",
        "evaluated": _evaluated(run),
        "showcases": [_showcase(name, outcome) for name, outcome in run.outcomes.items() if outcome.pictures],
        "failed": failed(run),
        "speed": _speed(run),
        "timed": bool(run.timing),
        "bad": run.bad.most_common(_WORST_SHARDS),
        "reasons": run.reasons.most_common(_WORST_SHARDS),
        "next": [(why, " \\\n    ".join(pieces)) for why, pieces in next_steps(run, command)],
        "command": command,
        "own_data": OWN_DATA.format(command=command),
    }


def _facts(run: Recorded) -> list[tuple[str, str]]:
    config = run.config
    parameters = count_parameters(config.model)
    of = "" if run.step == config.steps else f" of {config.steps:,}"
    facts = [
        ("Model", model_words(config.model)),
        ("Parameters", f"{parameters:,}"),
        ("Trained on", source_words(config.source)),
        ("Objective", objective_words(config.objective)),
        *([("Teachers", teachers_words(config.teachers))] if config.teachers else []),
        ("Steps", f"{run.step:,}{of}"),
        ("Batch", f"{config.batch_size:,} pairs"),
        ("Pairs seen", f"{run.step * config.batch_size:,}"),
    ]
    if math.isfinite(run.seconds):
        facts.append(("Time in training", f"{clock(run.seconds)} (about)"))
        facts.append(("Speed", f"{run.pairs_per_second:,.0f} pairs/s"))
    return [*facts, ("Date", run.date)]


def _tables(run: Recorded) -> list[dict[str, Any]]:
    found = []
    for name, outcome in run.outcomes.items():
        rows = [
            {
                "figure": figure_words(figure),
                "value": value_words(figure, number.value),
                "chance": value_words(figure, number.chance) or "unknown",
                "times": (times(number) if is_share(figure) else "") or "-",
                "verdict": verdict(figure, number, outcome.counts),
                "bar": bar(figure, number),
            }
            for figure, number in outcome.figures.items()
        ]
        if rows:
            found.append({"name": name, "about": counts_words(_kind(run, name), outcome.counts), "rows": rows})
    return found


def _kind(run: Recorded, name: str) -> str:
    if name not in run.config.evals:
        return ""
    evaluation = run.config.evals[name]
    kind = to_dict(evaluation)["kind"].replace("_", "-")
    source, teacher = getattr(evaluation, "source", None), getattr(evaluation, "teacher", "")
    against = f" against teacher {teacher}" if teacher else ""
    return f"{kind} on {source_words(source)}{against}" if source else kind


def _evaluated(run: Recorded) -> str:
    """What the final evaluation was of, and whether training has gone on since."""
    if not run.measured or "step" not in run.about:
        return ""
    step, weights = run.about["step"], {"ema": "averaged weights", "raw": "raw weights"}
    which = weights[run.about["weights"]] if run.about["weights"] in weights else str(run.about["weights"])
    later = f" Training has reached step {run.step:,} since: evaluate again." if step < run.step else ""
    return f"Of the checkpoint at step {step:,}, {which}.{later}"


def _showcase(name: str, outcome: Outcome) -> dict[str, Any]:
    pictures: Mapping[str, np.ndarray] = outcome.pictures
    matrix = pictures["matrix"].astype(float)
    known = matrix[np.isfinite(matrix)]
    high = float(known.max(initial=-1.0))
    low = max(float(known.min(initial=1.0)), 0.0) if high > 0 else -1.0  # what is opposite is as white as what is apart
    texts = pictures["matrix_texts"].tolist()
    gallery = f" of {outcome.counts['images']:,}" if "images" in outcome.counts else ""
    queries = zip(pictures["queries"].tolist(), pictures["query_scores"], pictures["query_images"], strict=True)
    worst = zip(*(pictures[f"failed_{part}"] for part in ("texts", "ranks", "wanted", "got")), strict=True)
    wrong, of = pictures["failed_of"].tolist()
    return {
        "name": name,
        "gallery": gallery.removeprefix(" of "),
        "texts": texts,
        "images": [data_uri(image) for image in pictures["matrix_images"]],
        "rows": [
            (text, [_cell(value, low, high, row == column) for column, value in enumerate(values)])
            for row, (text, values) in enumerate(zip(texts, matrix, strict=True))
        ],
        "right": int((matrix.argmax(axis=1) == np.arange(len(matrix))).sum()) if len(matrix) else 0,
        "low": f"{100 * low:.0f}",
        "high": f"{100 * high:.0f}",
        "scale": ", ".join(heat(place)[0] for place in (0.0, 0.5, 1.0)),
        "queries": [
            (query, [(f"{score:.2f}", data_uri(image)) for score, image in zip(scores, images, strict=True)])
            for query, scores, images in queries
        ],
        "worst": [
            (str(text), f"{int(rank):,}{gallery}", data_uri(wanted), data_uri(got)) for text, rank, wanted, got in worst
        ],
        "wrong": f"{wrong:,} of {of:,}",
        "share": percent(wrong / of if of else None),
    }


def _cell(value: float, low: float, high: float, own: bool) -> dict[str, Any]:
    """One similarity as it is shown: in hundredths, coloured between the matrix's lowest and highest."""
    if not math.isfinite(value):
        return {"text": "-", "back": "transparent", "ink": "inherit", "own": own}
    back, ink = heat((value - low) / (high - low) if high > low else 0.0)
    return {"text": f"{round(100 * value)}", "back": back, "ink": ink, "own": own}


def _speed(run: Recorded) -> list[tuple[str, str]]:
    facts = []
    if math.isfinite(run.seconds):
        rates = run.timing["pairs_per_second"].values if "pairs_per_second" in run.timing else np.zeros(0)
        rates = rates[rates > 0]
        spread = f" ({rates.min():,.0f} to {rates.max():,.0f})" if len(rates) else ""
        facts = [
            ("Pairs a second", f"{run.pairs_per_second:,.0f}{spread}"),
            ("Time a step", f"{1000 * run.seconds / run.step:,.0f} ms"),
            ("Waiting for the loader", percent(loader_wait(run))),
        ]
    if "step_p99" in run.timing:
        p50, p90, p99 = (1000 * run.timing[f"step_{name}"].values[-1] for name in ("p50", "p90", "p99"))
        facts.append(("Step time, median / 90% / 99%", f"{p50:,.0f} / {p90:,.0f} / {p99:,.0f} ms"))
    if "goodput" in run.timing:
        facts.append(("Goodput: time in steps that count", percent(run.timing["goodput"].values[-1])))
        facts.append(
            ("Held up by checkpoints, since the last start", f"{run.timing['checkpoint_stall'].values[-1]:.1f} s")
        )
    if "device_memory_gb" in run.timing:
        facts.append(("Device memory at its peak", f"{run.timing['device_memory_gb'].values[-1]:.1f} GB"))
    if "tflops_per_device" in run.timing:
        facts.append(("Model TFLOP/s a device", f"{_middle(run.timing['tflops_per_device']):.3g}"))
    if "mfu" in run.timing:
        facts.append(("Model FLOPs utilization", percent(_middle(run.timing["mfu"]))))
    else:
        facts.append(("Model FLOPs utilization", "unknown on this device"))
    if run.speed:
        facts.append(
            ("Encoding", f"{run.speed.images:,.0f} images/s and {run.speed.texts:,.0f} texts/s on {run.speed.device}")
        )
    facts.append(("Samples replaced", f"{run.last('replaced'):,.0f} of {run.step * run.config.batch_size:,}"))
    facts.append(("Steps skipped", f"{run.last('skipped'):,.0f} of {run.step:,}"))
    return facts


def _middle(series: Series) -> float:
    known = series.values[series.values > 0]
    return float(np.median(known)) if len(known) else 0.0


def _lines(run: Recorded, path: Path, command: str) -> list[str]:
    above, rest = apart(run.outcomes)
    lines = []
    for headline in above[:_BEST]:
        chance = ""
        if headline.number.times:
            chance = f", {times(headline.number)} x chance ({percent(headline.number.chance)})"
        lines.append(f"{headline.name}: {figure_words(headline.figure)} {percent(headline.number.value)}{chance}")
    if rest:
        few = [
            f"{headline.name} {headline.verdict} ({percent(headline.number.value)}, chance {percent(headline.number.chance)})"
            for headline in rest
        ]
        lines.append(f"not learned: {', '.join(few)}")
    lines = lines or [learned(run)]
    lines += [f"the report: open {shlex.quote(str(path))}", "to try next:"]
    return lines + [f"  {' '.join(pieces)}" for _, pieces in next_steps(run, command)[:_TRIES]]
