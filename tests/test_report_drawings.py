"""The report's drawings: gaps, thinning, room for names, colours that can be read."""

import re

import numpy as np

from clip_jax.report import plots as report_plots
from clip_jax.report.read import read_run
from tests.recorded_run import make_run


def test_figures_that_are_not_finite_leave_gaps(tmp_path):
    series = read_run(make_run(tmp_path / "r")).metrics["loss"]
    assert np.isnan(series.values[series.steps == 300]).all()
    line = report_plots.Line(label="loss", series=series)
    moves = report_plots.chart([line], what="loss", key="k").count("stroke: var(--one)")
    assert moves >= 1
    path = re.search(
        r'<path d="([^"]*)"[^>]*style="[^"]*stroke: var\(--one\)', report_plots.chart([line], what="", key="k")
    )
    assert path[1].count("M") == 2


def test_long_lines_are_thinned_and_jumps_drawn_on_a_logarithmic_scale():
    steps = np.arange(100_000)
    values = np.ones(len(steps))
    values[50_000] = 1e9
    svg = report_plots.chart(
        [report_plots.Line(label="norm", series=report_plots.Series(steps=steps, values=values))], what="norm", key="k"
    )
    assert len(svg) < 40_000


def test_names_of_lines_stay_inside_the_drawing():
    series = report_plots.Series(steps=np.arange(3), values=np.arange(3.0))
    for names in (["swap accuracy", "swap pairwise", "color precision@20"], ["a name that fills a row by itself"] * 3):
        lines = [report_plots.Line(label=name, series=series, color=n) for n, name in enumerate(names)]
        svg = report_plots.chart(lines, what="w", key="k")
        width = float(re.search(r'viewBox="0 0 (\S+)', svg)[1])
        for name in names:
            left = float(re.search(rf'<text [^>]*?x="([^"]*)"[^>]*>{name}<', svg)[1])
            assert 0 < left < left + 6 * len(name) < width  # a letter is about 6 units wide


def test_heat_is_readable_at_every_place():
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for place in np.linspace(-0.1, 1.1, 49):
        low, high = sorted(luminance(color) for color in report_plots.heat(float(place)))
        assert (high + 0.05) / (low + 0.05) >= 4.5
