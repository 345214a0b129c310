"""Shares in rows, a mark for each model, and where chance is."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from clip_jax.report.svg import INK, LINES, MARKERS, MUTED, drawing, dress

_LONGEST = 32  # letters of a row's name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """values: a share in [0, 1] for each model, None where it has none. chance: None where it is unknown."""

    name: str
    values: tuple[float | None, ...]
    chance: float | None = None


def dots(rows: Sequence[Row], models: Sequence[str], *, what: str, key: str) -> str:
    """An <svg>, per cent from left to right; see plots.chart for `what` and `key`. Several models have a legend."""

    def draw(figure: Any, axes: Any) -> None:
        for number, name in enumerate(models):
            found = [(row.values[number], -place) for place, row in enumerate(rows)]
            known = [(100 * x, y) for x, y in found if x is not None and math.isfinite(x)]
            look = {"color": LINES[number % len(LINES)], "markersize": 7, "clip_on": False, "label": name}
            axes.plot([x for x, _ in known], [y for _, y in known], MARKERS[number % len(MARKERS)], **look)
        chances = [(100 * row.chance, -place) for place, row in enumerate(rows) if row.chance is not None]
        axes.plot(
            [x for x, _ in chances],
            [y for _, y in chances],
            "|",
            color=MUTED,
            markersize=15,
            markeredgewidth=1.8,
            zorder=1,
        )
        _scales(axes, rows)
        dress(axes)
        if len(models) > 1:
            handles = axes.get_lines()[: len(models)]
            figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, labelcolor=INK)

    height = 0.9 + 0.3 * len(rows) + 0.22 * math.ceil(len(models) / 2) * (len(models) > 1)
    return drawing(draw, what=what, key=key, size=(5.0, height))


def _scales(axes: Any, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    shortened = [row.name if len(row.name) <= _LONGEST else f"{row.name[: _LONGEST - 1]}…" for row in rows]
    axes.set_yticks([-place for place in range(len(rows))], shortened)
    axes.set_ylim(0.6 - len(rows), 0.4)
    known = [100 * x for row in rows for x in (*row.values, row.chance) if x is not None and math.isfinite(x)]
    axes.set_xlim(min(0.0, *known, 0.0), min(max(1.08 * max(known, default=1.0), 1.0), 100.0) if known else 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
