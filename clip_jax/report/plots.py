"""Curves and pictures of the report: SVG whose colours follow the page's light or dark, and PNG data URIs."""

import base64
import dataclasses
import html
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from clip_jax.report.read import Series

_POINTS = 400  # a line's; longer ones are averaged down to as many
_FEW = 40  # points up to which each gets a marker
_LARGEST = 128  # pixels a side of an embedded picture

# What matplotlib draws with -> the page's CSS variable, so that one drawing suits light, dark and print.
_COLORS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--one)",
    "#050505": "var(--two)",
    "#060606": "var(--three)",
    "#070707": "var(--bad)",
}
_INK, _MUTED, _GRID, *_LINES, _BAD = _COLORS
_CIVIDIS = np.array([[0, 34, 78], [125, 124, 120], [254, 232, 56]], np.float64)  # its ends and middle
_TICKS = [1, 2, 2.5, 5, 10]
_MARKERS = "os^"
_MARK = {"on": ("-", 1.6), "dashed": ((0, (4, 2)), 1.2)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart. color: 0, 1 or 2. chance: the level that guessing reaches, None for none or unknown."""

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
    key: str,
) -> str:
    """An <svg> with a line each, to be placed in HTML. what: its text for those who do not see it, escaped here.

    share: values in [0, 1], drawn as per cent. from_zero: where the scale begins, as it does for a share. marks: steps to
    mark with a cross at the foot. level: of a dotted line. key: sets this drawing's ids apart from others' on the page.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": key,
        "font.size": 10.5,
        "text.parse_math": False,
        "axes.formatter.useoffset": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(5.0, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes: Any = figure.add_subplot()
        scale = 100 if share else 1
        for line in lines:
            _draw(axes, line, scale)
        levels = {line.chance: line.color for line in lines if line.chance is not None}
        for chance, color in levels.items():
            axes.axhline(scale * chance, color=_LINES[color], linestyle=":", linewidth=1.2)
        if level is not None:
            axes.axhline(level, color=_MUTED, linestyle=":", linewidth=1.2)
        if len(marks):
            foot = np.full(len(marks), 0.04)
            axes.plot(marks, foot, "x", color=_BAD, markersize=6, transform=axes.get_xaxis_transform(), clip_on=False)
        _dress(axes, share=share, from_zero=from_zero or share)
        if len(lines) > 1:
            solid = [artist for artist, line in zip(axes.get_lines(), lines, strict=False) if not line.dashed]
            figure.legend(handles=solid, loc="outside upper center", ncols=3, frameon=False, labelcolor=_INK)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    return _for_page(file.getvalue(), what)


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


def _draw(axes: Any, line: Line, scale: int) -> None:
    steps, values = _thinned(line.series)
    style, width = _MARK["dashed" if line.dashed else "on"]
    lonely = (
        np.isfinite(values) & ~np.isfinite(np.append(values[1:], np.nan)) & ~np.isfinite(np.append(np.nan, values[:-1]))
    )
    marker = _MARKERS[line.color] if len(steps) <= _FEW or lonely.any() else ""
    axes.plot(
        steps,
        scale * values,
        color=_LINES[line.color],
        label=line.label,
        linestyle=style,
        linewidth=width,
        marker=marker,
        markersize=3.5,
        markevery=None if len(steps) <= _FEW else np.flatnonzero(lonely).tolist(),
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


def _dress(axes: Any, *, share: bool, from_zero: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel("step", color=_MUTED)
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
    axes.tick_params(colors=_MUTED, length=3, labelcolor=_MUTED)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GRID)


def _jumps(axes: Any) -> bool:
    """Whether a few large values would press all others to the floor: then the axis is logarithmic."""
    values = np.concatenate([artist.get_ydata() for artist in axes.get_lines() if artist.get_label()[:1] != "_"])
    known = values[np.isfinite(values)]
    return len(known) > 0 and known.min() > 0 and known.max() > 30 * np.median(known)


def _for_page(svg: str, what: str) -> str:
    """Inline: no prologue and no style sheet, no fixed size, only ids that are used, the page's colours and font."""
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box, "matplotlib writes a viewBox"
    inside = re.sub(r"<(style|metadata)\b.*?</\1>", "", svg[svg.index(">", box.start()) + 1 :], flags=re.S)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', inside))
    inside = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", inside)
    inside = re.sub(r" font-family: [^;\"]*;", "", inside.replace("xlink:href", "href"))
    for color, variable in _COLORS.items():
        inside = inside.replace(color, variable)
    return f'<svg {box[0]} role="img" aria-label="{html.escape(what)}">' + re.sub(r"\s+", " ", inside).strip()
