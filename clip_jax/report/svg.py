"""Matplotlib's drawings as SVG inside a page: colours that follow its light or dark, its font, no ids but those used."""

import html
import io
import re
from collections.abc import Callable
from typing import Any

# What matplotlib draws with -> the page's CSS variable, so that one drawing suits light, dark and print.
_COLORS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#070707": "var(--bad)",
    "#040404": "var(--one)",
    "#050505": "var(--two)",
    "#060606": "var(--three)",
    "#080808": "var(--four)",
    "#090909": "var(--five)",
    "#0a0a0a": "var(--six)",
}
INK, MUTED, GRID, BAD, *LINES = _COLORS
MARKERS = "os^Dv*"  # one a colour, for eyes that do not tell colours apart


def drawing(draw: Callable[[Any, Any], None], *, what: str, key: str, size: tuple[float, float] = (5.0, 2.9)) -> str:
    """An <svg> of what `draw` puts on the (figure, axes) it is given, to be placed in HTML.

    what: its text for those who do not see it, escaped here. key: sets this drawing's ids apart from others' on the page.
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
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes: Any = figure.add_subplot()
        draw(figure, axes)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    return _for_page(file.getvalue(), what)


def dress(axes: Any) -> None:
    """Grid, ticks and spines as all drawings of a page have them."""
    axes.tick_params(colors=MUTED, length=3, labelcolor=MUTED)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)


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
