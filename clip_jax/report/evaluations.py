"""What clip-jax evaluate measured of one model or several, as one HTML page: drawings, tables, and what was found wanting."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from clip_jax.evals.protocol import Figure, Outcome, is_share
from clip_jax.evals.side_by_side import column_names, differing
from clip_jax.evals.suite import read_json
from clip_jax.report.dots import Row, dots
from clip_jax.report.figures import bar, counts_words, figure_words, headlines, percent, value_words, verdict
from clip_jax.report.page import Report
from clip_jax.report.render import render
from clip_jax.report.words import listing
from clip_jax.run_folder import EVALUATION
from clip_jax.weaknesses import weaknesses

PAGE = "evaluation.html"
_COLORS = ("one", "two", "three", "four", "five", "six")  # of page.css, and of the drawings


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Model:
    name: str
    about: dict[str, Any]
    outcomes: dict[str, Outcome]


def write_evaluations(folders: Sequence[Path], out: Path | None = None) -> Report:
    """Draws evaluation.html in the first of the folders, or the file `out`, of their evaluation.json.

    Raises FileNotFoundError for a folder without one, ValueError for one that is damaged, and for a folder given twice.
    """
    names = column_names([str(folder) for folder in folders])
    models = [_read(folder, name) for folder, name in zip(folders, names, strict=True)]
    path = out or folders[0] / PAGE
    path.write_text(render("evaluations.html.j2", _content(models)), encoding="utf-8")
    lines = [f"{model.name}: {line}" for model in models for line in weaknesses(model.outcomes)[-1:]]
    return Report(path=path, lines=[*lines, f"the report: open {shlex.quote(str(path))}"])


def _read(folder: Path, name: str) -> _Model:
    file = folder / EVALUATION
    try:
        about, outcomes = read_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {EVALUATION}; clip-jax evaluate writes one") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    return _Model(name=folder.resolve().name if name in ("", ".") else name, about=about, outcomes=outcomes)


def _content(models: Sequence[_Model]) -> dict[str, Any]:
    several = len(models) > 1
    names = dict.fromkeys(name for model in models for name in model.outcomes)
    return {
        "name": listing([model.name for model in models]),
        "models": [
            {
                "name": model.name,
                "color": f"var(--{_COLORS[number % len(_COLORS)]})",
                "facts": _facts(model),
                "weaknesses": weaknesses(model.outcomes),
            }
            for number, model in enumerate(models)
        ],
        "several": several,
        "plots": _plots(models),
        "tables": [
            _table(models, name) for name in names if any(m.outcomes[name].figures for m in _with(models, name))
        ],
        "differ": differing({model.name: model.about.get("evals", {}) for model in models}) if several else [],
    }


def _with(models: Sequence[_Model], name: str) -> list[_Model]:
    return [model for model in models if name in model.outcomes]


def _facts(model: _Model) -> list[tuple[str, str]]:
    about = model.about
    found = [("model", str(about[key])) for key in ("model", "run") if about.get(key)][:1]
    if "step" in about:
        found.append(("checkpoint", f"step {about['step']}, {about.get('weights', '')} weights"))
    speed = about.get("speed")
    if isinstance(speed, dict) and {"images", "texts", "device", "dtype"} <= speed.keys():
        encoded = f"{speed['images']:,.0f} images/s, {speed['texts']:,.0f} texts/s"
        found.append(("encodes", f"{encoded} on {speed['device']}, {speed['dtype']}"))
    return [*found, ("measured", str(about.get("time", "")))]


def _plots(models: Sequence[_Model]) -> list[dict[str, Any]]:
    """The figure that speaks for each evaluation, and a drawing of each that tells of groups."""
    speaking: dict[str, str] = {}
    for model in models:
        speaking |= {one.name: one.figure for one in headlines(model.outcomes) if is_share(one.figure)}
    order = [name for model in models[:1] for name in model.outcomes] + list(speaking)
    overview = [
        (f"{name}, {figure_words(speaking[name])}", name, speaking[name])
        for name in dict.fromkeys(order)
        if name in speaking
    ]
    found = [_plot(models, "Each evaluation", "The figure that speaks for it.", overview)] if len(overview) > 1 else []
    for name in dict.fromkeys(name for model in models for name in model.outcomes):
        figures = {figure: one for model in _with(models, name) for figure, one in model.outcomes[name].figures.items()}
        for title, note, rows in _groups(figures):
            found.append(_plot(models, f"{name}: {title}", note, [(row, name, figure) for row, figure in rows]))
    return found


def _groups(figures: Mapping[str, Figure]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(title, note, [(row, figure)]) of an evaluation whose figures are of groups: bins, senses, races, shifts."""
    found = []
    bins = [figure for figure in figures if figure.startswith("bin_") and "_overlap_at_" in figure]
    if bins:
        rows = [(f"cosine {figures['cosine_' + figure.partition('_overlap')[0]].value:.3f}", figure) for figure in bins]
        note = "By how near a query is to what was trained on, the farthest first."
        found.append((figure_words(bins[0].removeprefix("bin_1_")), note, rows))
    for harm, title in (("crime", "taken for criminals"), ("non_human", "taken for animals")):
        rates = [
            figure
            for figure in figures
            if figure.startswith(f"{harm}_") and not figure.startswith(f"{harm}_with_child")
        ]
        if rates:
            rows = [(figure.removeprefix(f"{harm}_").replace("_", " "), figure) for figure in rates]
            found.append((title, "Share of the faces of each race and age.", rows))
    if "effective_robustness" in figures:
        rows = [
            ("without the shift", "top1"),
            ("shifted", "shifted_top1"),
            ("shifted, as expected", "expected_top1"),
        ]
        note = "Expected: what standard models of the same accuracy reach."
        found.append(("effective robustness", note, [row for row in rows if row[1] in figures]))
    pairs = [figure for figure in figures if f"teacher_{figure}" in figures]
    if pairs:
        rows = [row for one in pairs for row in ((figure_words(one), one), ("its teacher's", f"teacher_{one}"))]
        found.append(("student and teacher", "Each figure above its teacher's.", rows))
    return found


def _plot(models: Sequence[_Model], title: str, note: str, rows: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """rows: (name, evaluation, figure)."""
    drawn = []
    for row, name, figure in rows:
        numbers = [model.outcomes[name].figures.get(figure) if name in model.outcomes else None for model in models]
        chance = next((number.chance for number in numbers if number and number.chance is not None), None)
        values = tuple(None if number is None else number.value for number in numbers)
        drawn.append(Row(name=row, values=values, chance=chance))
    said = [
        f"{row.name}: "
        + listing([f"{model.name} {percent(x)}" for model, x in zip(models, row.values, strict=True) if x is not None])
        for row in drawn
    ]
    if any(row.chance is not None for row in drawn):
        note += " Upright: chance."
    svg = dots(drawn, [model.name for model in models], what=f"{title}. {'; '.join(said)}", key=title)
    return {"title": title, "note": note, "svg": Markup(svg)}


def _table(models: Sequence[_Model], name: str) -> dict[str, Any]:
    outcomes = [model.outcomes.get(name) for model in models]
    figures = dict.fromkeys(figure for outcome in outcomes if outcome for figure in outcome.figures)
    first = next(outcome for outcome in outcomes if outcome)
    return {
        "name": name,
        "about": counts_words("", first.counts),
        "rows": [
            {
                "figure": figure_words(figure),
                "cells": [_cell(figure, outcome, number) for number, outcome in enumerate(outcomes)],
                "chance": next(
                    (
                        value_words(figure, known)
                        for outcome in outcomes
                        if outcome and figure in outcome.figures
                        if (known := outcome.figures[figure].chance) is not None
                    ),
                    "",
                ),
            }
            for figure in figures
        ],
    }


def _cell(figure: str, outcome: Outcome | None, model: int) -> dict[str, Any]:
    if outcome is None or figure not in outcome.figures:
        return {"value": "", "verdict": "", "bar": {"width": "", "mark": ""}, "color": ""}
    number = outcome.figures[figure]
    return {
        "value": value_words(figure, number.value),
        "verdict": verdict(figure, number, outcome.counts),
        "bar": bar(figure, number),
        "color": f"var(--{_COLORS[model % len(_COLORS)]})",
    }
