"""The report's drawings: which figures of a run, with which levels and notes."""

import math
from typing import Any

import numpy as np
from markupsafe import Markup

from clip_jax.evals.protocol import is_share
from clip_jax.report.figures import figure_words, percent
from clip_jax.report.plots import Line, chart
from clip_jax.report.read import Recorded, Series, evaluation_of
from clip_jax.report.svg import LINES
from clip_jax.report.words import listing
from clip_jax.run_folder import METRICS


def curves(run: Recorded) -> list[dict[str, Any]]:
    """Of what each step reports: title, svg, note."""
    config, metrics = run.config, run.metrics
    weights = dict(config.objective.weights)
    terms = [name for name in weights if name in metrics] if len(weights) > 1 else []
    shown = terms[: len(LINES) - 1]
    only = weights["info_nce"] if list(weights) == ["info_nce"] else None
    guess = only * math.log(config.batch_size) if isinstance(only, (int, float)) else None
    note = f"Dotted: {guess:.2f}, the loss of guessing within a batch of {config.batch_size:,}." if guess else ""
    if terms:
        more = f"; {len(terms) - len(shown)} more are in {METRICS}" if len(terms) > len(shown) else ""
        note = f"The terms are drawn before their weights{more}."
    largest = np.nanmax(metrics["grad_norm"].values, initial=0.0) if "grad_norm" in metrics else 0.0
    clip = config.optim.clip_norm if 0 < config.optim.clip_norm <= largest else None
    plots = [
        ("loss", "Loss", ["loss", *shown], guess, note),
        ("lr", "Learning rate", ["lr"], None, ""),
        ("scale", "Logit scale", ["logit_scale"], None, "The factor on cosines, at most 100."),
        ("norm", "Gradient norm", ["grad_norm"], clip, f"Dotted: clipped to {clip:g}." if clip else ""),
    ]
    found = []
    for key, title, names, level, note in plots:
        lines = [
            Line(label=name.replace("_", " "), series=metrics[name], color=color)
            for color, name in enumerate(names)
            if name in metrics
        ]
        if lines:
            marks = _skipped_at(run) if key == "loss" else []
            svg = chart(lines, what=_described(title, lines), marks=marks, level=level, key=key)
            found.append({"title": title, "svg": Markup(svg), "note": note})
    return found


def _skipped_at(run: Recorded) -> list[int]:
    """Logged steps by which more had been skipped than before."""
    if "skipped" not in run.metrics:
        return []
    series = run.metrics["skipped"]
    return series.steps[np.diff(series.values, prepend=0) > 0].tolist()


def skips(run: Recorded) -> str:
    """Where steps were skipped, in words; an empty text where none was."""
    marks = _skipped_at(run)
    if not marks:
        return ""
    shown = listing([f"{step:,}" for step in marks[:8]] + (["later ones"] if len(marks) > 8 else []))
    return f"Crosses on the loss mark skipped steps, {run.last('skipped'):,.0f} in all, by step {shown}."


def evaluation_curves(run: Recorded) -> list[dict[str, Any]]:
    """One drawing an evaluation that was made more than once."""
    names = list(dict.fromkeys(filter(None, (evaluation_of(key, run.config) for key in run.metrics))))
    found = []
    for number, name in enumerate(names):
        figures = [key.rpartition("/")[2] for key in run.metrics if key.rpartition("/")[0] == name]
        figures = [figure for figure in figures if is_share(figure)]
        chances = (
            {key: figure.chance for key, figure in run.outcomes[name].figures.items()} if name in run.outcomes else {}
        )
        forward = [figure for figure in figures if not figure.startswith("image_to_text")]
        lines = []
        for color, figure in enumerate((forward or figures)[:3]):
            label, series = figure_words(figure).removeprefix("text to image "), run.metrics[f"{name}/{figure}"]
            lines.append(Line(label=label, series=series, color=color, chance=chances.get(figure)))
            back = figure.replace("text_to_image", "image_to_text")
            if back != figure and back in figures:
                lines.append(Line(label=back, series=run.metrics[f"{name}/{back}"], color=color, dashed=True))
        if lines and len(lines[0].series.steps) > 1:
            notes = ["Solid: text to image; dashed: image to text."] if any(line.dashed for line in lines) else []
            notes += ["Dotted: chance."] if any(line.chance is not None for line in lines) else []
            svg = chart(lines, what=_described(name, lines, share=True), share=True, key=f"evaluation{number}")
            found.append({"title": name, "svg": Markup(svg), "note": " ".join(notes)})
    return found


def speed_curves(run: Recorded) -> list[dict[str, Any]]:
    """Pairs a second and loader wait."""
    found = []
    for name, title, share in (("pairs_per_second", "Pairs a second", False), ("loader_wait", "Loader wait", True)):
        if name in run.timing:
            series = run.timing[name]
            if not share:  # 0 stands for unknown: the first step compiles
                series = Series(steps=series.steps, values=np.where(series.values > 0, series.values, np.nan))
            lines = [Line(label=title, series=series)]
            svg = chart(lines, what=_described(title, lines, share=share), share=share, from_zero=True, key=name)
            found.append({"title": title, "svg": Markup(svg), "note": ""})
    return found


def _described(title: str, lines: list[Line], *, share: bool = False) -> str:
    """What a drawing shows, for those who do not see it."""
    parts = []
    for line in lines:
        known = np.flatnonzero(np.isfinite(line.series.values))
        if len(known):
            values = line.series.values[known[[0, -1]]].tolist()
            ends = [percent(value) if share else f"{value:.4g}" for value in values]
            chance = f" (chance {percent(line.chance)})" if line.chance is not None else ""
            steps = line.series.steps[known[[0, -1]]]
            parts.append(
                f"{figure_words(line.label)} from {ends[0]} at step {steps[0]:,} to {ends[1]} at step {steps[1]:,}{chance}"
            )
    return f"{title} over steps: {'; '.join(parts) or 'no finite values'}"
