"""Curves and pictures of the report: SVG whose colours follow the page's light or dark, and PNG data URIs."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from clip_jax.report.read import Series
from clip_jax.report.svg import BAD, INK, LINES, MARKERS, MUTED, drawing, dress

_POINTS = 400  # a line's; longer ones are averaged down to as many
_FEW = 40  # points up to which each gets a marker
_MARKS = 8  # about so many on a longer line that the page names by its marker
_ROW, _HANDLE = 60, 8  # letters beside each other in a legend, and as how many a line's sample counts
_LARGEST = 128  # pixels a side of an embedded picture

_CIVIDIS = np.array([[0, 34, 78], [125, 124, 120], [254, 232, 56]], np.float64)  # its ends and middle
_TICKS = [1, 2, 2.5, 5, 10]
_MARK = {"on": ("-", 1.6), "dashed": ((0, (4, 2)), 1.2)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart. color: of svg.LINES, 0 to 5. chance: the level that guessing reaches, None for none or unknown."""

    label: str
    series: Series
    color: int = 0
    dashed: bool = False
    chance: float | None = None


def chart(
    lines: Sequence[Line],
    *,
    what: str,
    share: bool = False,
    from_zero: bool = False,
    marks: Sequence[int] = (),
    level: float | None = None,
    legend: bool = True,
    key: str,
) -> str:
    """An <svg> with a line each, to be placed in HTML. what: its text for those who do not see it, escaped here.

    share: values in [0, 1], drawn as per cent. from_zero: where the scale begins, as it does for a share. marks: steps to
    mark with a cross at the foot. level: of a dotted line. legend: without one the page itself says which line is which, by
    colour and marker. key: sets this drawing's ids apart from others' on the page.
    """

    def draw(figure: Any, axes: Any) -> None:
        scale = 100 if share else 1
        for line in lines:
            _draw(axes, line, scale, marked=not legend)
        levels = {line.chance: line.color for line in lines if line.chance is not None}
        for chance, color in levels.items():
            axes.axhline(scale * chance, color=LINES[color], linestyle=":", linewidth=1.2)
        if level is not None:
            axes.axhline(scale * level, color=MUTED, linestyle=":", linewidth=1.2)
        if len(marks):
            foot = np.full(len(marks), 0.04)
            axes.plot(marks, foot, "x", color=BAD, markersize=6, transform=axes.get_xaxis_transform(), clip_on=False)
        _scales(axes, share=share, from_zero=from_zero or share)
        dress(axes)
        if legend and len(lines) > 1:
            solid = [artist for artist, line in zip(axes.get_lines(), lines, strict=False) if not line.dashed]
            columns = max(1, _ROW // (_HANDLE + max(len(artist.get_label()) for artist in solid)))
            figure.legend(handles=solid, loc="outside upper center", ncols=columns, frameon=False, labelcolor=INK)

    return drawing(draw, what=what, key=key)


def data_uri(picture: np.ndarray) -> str:
    """u8[S, S, 3] -> data:image/png;base64,...; shrunk where it is larger than a report shows it."""
    image = Image.fromarray(picture)
    image.thumbnail((_LARGEST, _LARGEST))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def heat(share: float) -> tuple[str, str]:
    """0 to 1 -> (background, text): cividis, which colour-blind eyes read too, and black or white, as reads better on it."""
    place = 2 * min(max(share, 0.0), 1.0)
    low, high = _CIVIDIS[int(place >= 1)], _CIVIDIS[int(place >= 1) + 1]
    color = low + (high - low) * (place - int(place >= 1))
    red, green, blue = (int(value) for value in np.rint(color))
    linear = [
        value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in (red, green, blue)
    ]
    luminance = float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
    return f"#{red:02x}{green:02x}{blue:02x}", "#000000" if luminance > 0.179 else "#ffffff"


def _draw(axes: Any, line: Line, scale: int, *, marked: bool) -> None:
    """marked: long lines have a marker here and there too, not only where a point stands alone."""
    steps, values = _thinned(line.series)
    style, width = _MARK["dashed" if line.dashed else "on"]
    lonely = (
        np.isfinite(values) & ~np.isfinite(np.append(values[1:], np.nan)) & ~np.isfinite(np.append(np.nan, values[:-1]))
    )
    few = len(steps) <= _FEW
    apart = np.arange(len(steps)) % (len(steps) // _MARKS or 1) == 0 if marked else np.zeros(len(steps), bool)
    axes.plot(
        steps,
        scale * values,
        color=LINES[line.color],
        label=line.label,
        linestyle=style,
        linewidth=width,
        marker=MARKERS[line.color] if few or (lonely | apart).any() else "",
        markersize=3.5 if len(steps) > 1 else 6,
        markevery=None if few else np.flatnonzero(lonely | apart).tolist(),
    )


def _thinned(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """At most _POINTS of a line, each a mean; only where nothing was finite is there a gap."""
    if len(series.steps) <= _POINTS:
        return series.steps, series.values
    steps, values = [], []
    for chunk in np.array_split(np.arange(len(series.steps)), _POINTS):
        known = series.values[chunk][np.isfinite(series.values[chunk])]
        steps.append(series.steps[chunk].mean())
        values.append(known.mean() if len(known) else np.nan)
    return np.array(steps), np.array(values)


def _scales(axes: Any, *, share: bool, from_zero: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel("step", color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=_TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if _jumps(axes):
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=_TICKS))
    if share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    if from_zero:
        axes.set_ylim(bottom=0)


def _jumps(axes: Any) -> bool:
    """Whether a few large values would press all others to the floor: then the axis is logarithmic."""
    values = np.concatenate([artist.get_ydata() for artist in axes.get_lines() if artist.get_label()[:1] != "_"])
    known = values[np.isfinite(values)]
    return len(known) > 0 and known.min() > 0 and known.max() > 30 * np.median(known)
