"""Figures of several models in one table, a column each."""

import re
from collections.abc import Mapping, Sequence

from rich.table import Table

from clip_jax.evals.protocol import Outcome, is_share


def side_by_side(measured: Mapping[str, Mapping[str, Outcome]]) -> Table:
    """measured: model -> evaluation -> outcome. A row a figure that any model has; chance is that of the first model
    that knows it."""
    view = Table(box=None, pad_edge=False)
    view.add_column("evaluation")
    view.add_column("figure")
    for column in (*measured, "chance"):
        view.add_column(column, justify="right")
    for name, figure in _rows(list(measured.values())):
        found = [outcomes[name].figures.get(figure) if name in outcomes else None for outcomes in measured.values()]
        known = [number for number in found if number is not None]
        chance = next((number.chance for number in known if number.chance is not None), None)
        values = [None if number is None else number.value for number in found]
        view.add_row(name, figure, *(_written(figure, value) for value in values), _written(figure, chance))
    return view


def differing(settings: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Evaluations that models share by name but not by settings. settings: model -> evaluation -> its config."""
    by_name: dict[str, list[object]] = {}
    for evals in settings.values():
        for name, config in evals.items():
            by_name.setdefault(name, []).append(config)
    return [name for name, configs in by_name.items() if any(config != configs[0] for config in configs)]


def column_names(models: Sequence[str]) -> list[str]:
    """Short names that tell the models apart: of each path the last part, or as many as that takes. Raises ValueError for one
    given twice."""
    whole = [model.rstrip("/") for model in models]
    if twice := [model for model in whole if whole.count(model) > 1]:
        raise ValueError(f"{twice[0]} is given twice; give different models")
    return [
        next((end for end in _ends(model) if [other for other in whole if end in _ends(other)] == [model]), model)
        for model in whole
    ]


def _ends(path: str) -> list[str]:
    """The last part, the last two, ... of a path."""
    parts = path.split("/")
    return ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]


def folder_names(columns: Sequence[str]) -> list[str]:
    """A name of a folder for each of different columns, and different ones: what no plain name has becomes _."""
    found: list[str] = []
    for column in columns:
        plain = re.sub(r"[^\w.-]+", "_", column).strip("._") or "model"
        found.append(
            next(name for name in (plain, *(f"{plain}-{n}" for n in range(2, 2 + len(columns)))) if name not in found)
        )
    return found


def _rows(outcomes: Sequence[Mapping[str, Outcome]]) -> list[tuple[str, str]]:
    """(evaluation, figure), each evaluation's together."""
    names = dict.fromkeys(name for one in outcomes for name in one)
    rows = []
    for name in names:
        figures = dict.fromkeys(figure for one in outcomes if name in one for figure in one[name].figures)
        rows += [(name, figure) for figure in figures]
    return rows


def _written(figure: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f}%" if is_share(figure) else f"{value:+.3f}"
