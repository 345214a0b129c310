"""Drawings of several runs: quality against size and speed, and their curves over one another."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from clip_jax.report.beside.read import Compared, Examined
from clip_jax.report.beside.words import Measure, timed_alike
from clip_jax.report.figures import figure_words, headlines, percent
from clip_jax.report.plots import Line, chart
from clip_jax.report.scatter import Point, scatter
from clip_jax.report.svg import LINES
from clip_jax.report.words import listing

_MOST = 6  # evaluations whose curves are drawn


def quality(compared: Sequence[Compared], measure: Measure | None) -> list[dict[str, Any]]:
    """The figure that speaks for quality against parameters, and against images a second where these compare."""
    if measure is None:
        return []
    numbers = [(one, number) for one in compared if (number := measure.number(one)) and math.isfinite(number.value)]
    fast = [(one, one.run.speed.images) for one, _ in numbers if one.run.speed and timed_alike(one, numbers[0][0])]
    sizes = [(one, one.size.parameters / 1e6) for one, _ in numbers]
    chance = measure.evaluation.chance(measure.figure)
    figure = f"{figure_words(measure.figure)} on {measure.evaluation.name}"
    found = []
    for key, title, unit, places in (
        ("size", "Quality and size", "million parameters", sizes),
        ("fast", "Quality and speed", "images encoded a second", fast),
    ):
        if len(places) > 1:
            values = {one.name: number.value for one, number in numbers}
            points = [Point(name=one.name, x=x, y=values[one.name], color=one.number) for one, x in places]
            described = listing([f"{p.name} {percent(p.y)} at {p.x:,.4g}" for p in points])
            svg = scatter(points, what=f"{figure} against {unit}: {described}", x_label=unit, level=chance, key=key)
            note = f"{figure}." + (f" Dotted: chance, {percent(chance)}." if chance is not None else "")
            found.append({"title": title, "svg": Markup(svg), "note": note})
    return found


def losses(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """The task's own loss where several runs report it, and the whole objective, whose terms may differ."""
    found = []
    for name in ("info_nce", "sigmoid"):
        if sum(name in one.run.metrics for one in compared) > 1:
            batches = {one.run.config.batch_size for one in compared if name in one.run.metrics}
            guess = math.log(min(batches)) if name == "info_nce" and len(batches) == 1 else None
            note = "The loss on pairs alone, without what a teacher adds."
            if len(batches) > 1:
                note += f" Of batches of {listing([f'{size:,}' for size in sorted(batches)])}, so they do not compare."
            note += f" Dotted: guessing within a batch, {guess:.2f}." if guess else ""
            found += _overlaid(compared, name, f"Loss: {name}", note, level=guess)
    objectives = {tuple(sorted(str(term) for term in one.run.config.objective.weights.items())) for one in compared}
    if not found or len(objectives) > 1:
        note = "The objectives differ, so the levels do not compare." if len(objectives) > 1 else ""
        found += _overlaid(compared, "loss", "Whole objective", note)
    return found


def progress(compared: Sequence[Compared], evaluations: Sequence[Examined]) -> list[dict[str, Any]]:
    """The figure that speaks for each evaluation, over steps, where several runs measured it more than once."""
    found = []
    for one in evaluations:
        outcome = next(run.run.outcomes[one.name] for run in compared if one.name in run.run.outcomes)
        figure = headlines({one.name: outcome})[0].figure
        name = f"{one.name}/{figure}"
        if any(len(run.run.metrics[name].steps) > 1 for run in compared if name in run.run.metrics):
            chance = one.chance(figure)
            note = f"{figure_words(figure)}." + (" Dotted: chance." if chance is not None else "")
            note += " Not the same evaluation for all." if one.differs else ""
            found += _overlaid(compared, name, one.name, note, level=chance, share=True)
    return found[:_MOST]


def _overlaid(
    compared: Sequence[Compared],
    name: str,
    title: str,
    note: str,
    *,
    level: float | None = None,
    share: bool = False,
) -> list[dict[str, Any]]:
    lines = [
        Line(
            label=one.name,
            series=one.run.metrics[name],
            color=one.number % len(LINES),
            dashed=one.number >= len(LINES),
        )
        for one in compared
        if name in one.run.metrics
    ]
    if not lines:
        return []
    ends = [
        f"{line.label} {percent(last) if share else f'{last:.4g}'}"
        for line in lines
        for last in line.series.values[-1:]
    ]
    what = f"{title} over steps, at the end: {listing(ends)}"
    svg = chart(lines, what=what, share=share, level=level, legend=False, key=f"beside {title}")
    return [{"title": title, "svg": Markup(svg), "note": note}]
