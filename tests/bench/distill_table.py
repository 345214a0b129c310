"""Runs of several seeds as a table: means, spreads, and whether a difference to a baseline is outside its own spread."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import scipy.stats

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
_SURE = 0.95

Runs = Mapping[int, Mapping[str, float]]  # seed -> figure -> value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Of one figure to the baseline's at the same seeds. mean and spread: standard deviation over `seeds` seeds.

    clear: whether the interval of 95% for the mean, by Student's t of paired differences, leaves 0 out; None for one seed.
    """

    mean: float
    spread: float
    seeds: int
    clear: bool | None


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1); the latter nan for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def difference(runs: Runs, baseline: Runs, figure: str) -> Difference | None:
    """Over the seeds that both have; None without any."""
    apart = [runs[seed][figure] - baseline[seed][figure] for seed in sorted(runs) if seed in baseline]
    if not apart:
        return None
    mean, deviation = spread(apart)
    if len(apart) < 2:
        return Difference(mean=mean, spread=deviation, seeds=1, clear=None)
    reach = scipy.stats.t.ppf((1 + _SURE) / 2, len(apart) - 1) * deviation / math.sqrt(len(apart))
    return Difference(mean=mean, spread=deviation, seeds=len(apart), clear=bool(abs(mean) > reach))


def cell(values: Sequence[float]) -> str:
    """Shares as per cent: "12.3 ± 0.4", "12.3" for one seed, "" for none."""
    if not values:
        return ""
    mean, deviation = spread(values)
    return f"{100 * mean:.1f}" + ("" if math.isnan(deviation) else f" ± {100 * deviation:.1f}")


def difference_cell(found: Difference | None) -> str:
    """ "+3.1 ± 0.5" in points; with "*" where it is clear."""
    if found is None:
        return ""
    said = f"{100 * found.mean:+.1f}"
    if not math.isnan(found.spread):
        said += f" ± {100 * found.spread:.1f}"
    return said + (" *" if found.clear else "")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, the first column to the left, all others to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_between(path: Path, block: str) -> None:
    """Replaces what stands between the two marks. Raises ValueError for a page without both, each on its own, in order."""
    page = path.read_text()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no place for the table; put {BEGIN} and {END} there, each on a line of its own")
    path.write_text(f"{before}{BEGIN}\n{block}\n{END}{after}")
