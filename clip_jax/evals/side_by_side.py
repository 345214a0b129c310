"""Figures of several models in one table, a column each."""

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
    """Short names that tell the models apart: the last part of each path, or all of it. Raises ValueError for one given
    twice."""
    whole = [model.rstrip("/") for model in models]
    if twice := [model for model in whole if whole.count(model) > 1]:
        raise ValueError(f"{twice[0]} is given twice; give different models")
    last = [model.rpartition("/")[2] for model in whole]
    return [short if last.count(short) == 1 else model for short, model in zip(last, whole, strict=True)]


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
