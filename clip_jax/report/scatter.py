"""Points with names: one quantity against another."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_jax.report.svg import INK, LINES, MARKERS, MUTED, drawing, dress

_LONGEST = 26  # letters of a name beside its point
_APART = 0.085  # of the height, from one name's line to the next


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """color: of svg.LINES."""

    name: str
    x: float
    y: float
    color: int


def scatter(points: Sequence[Point], *, what: str, x_label: str, level: float | None, key: str) -> str:
    """An <svg> of shares y in [0, 1], drawn as per cent, over x above 0; see plots.chart for `what` and `key`.

    level: of a dotted line, chance.
    """

    def draw(_: Any, axes: Any) -> None:
        for point in points:
            mark = MARKERS[point.color % len(MARKERS)]
            axes.plot(
                [point.x], [100 * point.y], mark, color=LINES[point.color % len(LINES)], markersize=8, clip_on=False
            )
        if level is not None:
            axes.axhline(100 * level, color=MUTED, linestyle=":", linewidth=1.2)
        _scales(axes, points, x_label)
        dress(axes)
        _names(axes, points)

    return drawing(draw, what=what, key=key)


def _scales(axes: Any, points: Sequence[Point], x_label: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    xs, ys = [point.x for point in points], [100 * point.y for point in points]
    if max(xs) > 20 * min(xs):
        axes.set_xscale("log")
        axes.set_xlim(min(xs) / 2, max(xs) * 2)
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, 1.12 * max(xs))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_ylim(min(0.0, *ys), max(1.15 * max(ys), 1.0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.set_xlabel(x_label, color=MUTED)


def _names(axes: Any, points: Sequence[Point]) -> None:
    """Beside each point, on the side with more room, and apart from each other."""
    places = [axes.transAxes.inverted().transform(axes.transData.transform((p.x, 100 * p.y))) for p in points]
    heights = _spread([place[1] for place in places])
    for point, place, height in zip(points, places, heights, strict=True):
        right = place[0] < 0.5
        axes.annotate(
            point.name if len(point.name) <= _LONGEST else f"{point.name[: _LONGEST - 1]}…",
            xy=place,
            xytext=(place[0] + (0.03 if right else -0.03), height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            ha="left" if right else "right",
            va="center",
            color=INK,
            fontsize=9.5,
        )


def _spread(heights: Sequence[float]) -> list[float]:
    """As near to the given heights in [0, 1] as lines that do not overlap can be; in the order given."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, float)[order]
    for _ in range(50):  # pushes neighbours apart until none overlaps
        for low in range(len(placed) - 1):
            lack = _APART - (placed[low + 1] - placed[low])
            if lack > 0:
                placed[low] -= lack / 2
                placed[low + 1] += lack / 2
        placed = np.clip(placed, 0.03, 0.97)
    found = np.empty_like(placed)
    found[order] = placed
    return found.tolist()
