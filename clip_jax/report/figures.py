"""How figures are written and judged: per cent, times chance, bars, verdicts, and which one speaks for an evaluation."""

import dataclasses
import math
from collections.abc import Mapping

from clip_jax.evals.protocol import Figure, Outcome, is_share

_HEADLINES = (
    "text_to_image_r1",
    "top1",
    "mean_per_class",
)  # the first of these speaks for an evaluation, else its first figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """The figure that speaks for an evaluation. verdict: as of `verdict`."""

    name: str
    figure: str
    number: Figure
    verdict: str


def percent(share: float | None) -> str:
    """0.0834 -> "8.3%"; an empty text for None."""
    if share is None:
        return ""
    if not math.isfinite(share):
        return "not finite"
    return f"{100 * share:.1f}%" if abs(share) >= 0.01 or share == 0 else f"{100 * share:.2f}%"


def value_words(figure: str, value: float | None) -> str:
    """A share in per cent; a correlation or a difference with its sign, "+0.412"; an empty text for None."""
    if value is None or is_share(figure) or not math.isfinite(value):
        return percent(value)
    return f"{value:+.3f}"


def times(number: Figure) -> str:
    """How many times chance: "32"; an empty text where chance is unknown, or not above 0."""
    if number.times is None:
        return ""
    return f"{number.times:,.0f}" if number.times >= 10 else f"{number.times:.1f}"


def figure_words(figure: str) -> str:
    """text_to_image_r5 -> "text to image R@5"; top1 -> "top-1"; overlap_at_20 -> "overlap@20"; rbo -> "RBO"; others without
    underscores."""
    stem, _, last = figure.rpartition("_")
    if last[:1] == "r" and last[1:].isdecimal():
        return f"{stem.replace('_', ' ')} R@{last[1:]}"
    if stem.endswith("_at") and last.isdecimal():
        return f"{stem.removesuffix('_at').replace('_', ' ')}@{last}"
    if figure == "rbo":
        return "RBO"
    return f"top-{figure[3:]}" if figure.startswith("top") and figure[3:].isdecimal() else figure.replace("_", " ")


def bar(figure: str, number: Figure) -> dict[str, str]:
    """Of a share, the "width" of its bar and the place of chance's "mark", in per cent of the room; "" for none."""
    if not is_share(figure):
        return {"width": "", "mark": ""}
    value = number.value if math.isfinite(number.value) else 0.0
    mark = "" if number.chance is None else f"{100 * max(number.chance, 0.0):.1f}"
    return {"width": f"{100 * min(max(value, 0.0), 1.0):.1f}", "mark": mark}


def counts_words(kind: str, counts: Mapping[str, int]) -> str:
    """What was evaluated: "retrieval: 500 images, 500 captions"; an unknown kind is an empty text."""
    return ": ".join(filter(None, (kind, ", ".join(f"{count:,} {what}" for what, count in counts.items() if count))))


def verdict(figure: str, number: Figure, counts: Mapping[str, int]) -> str:
    """ "below chance", "at chance" (within three standard errors of it), "hardly above chance" (under 1.5 times chance
    and under a twentieth of the way from there to perfect), "not finite", or "" for what was learned, has no chance, or is
    no share."""
    if not math.isfinite(number.value):
        return "not finite"
    if number.chance is None or not is_share(figure):
        return ""
    error = standard_error(number.chance, asked(figure, counts))
    gain = number.value - number.chance
    if abs(gain) <= 3 * error:
        return "at chance"
    if gain < 0:
        return "below chance"
    hardly = number.value < 1.5 * number.chance and gain < 0.05 * (1 - number.chance)
    return "hardly above chance" if hardly else ""


def asked(figure: str, counts: Mapping[str, int]) -> int:
    """How many questions a figure is a share of; 0 where that is unknown."""
    askers = ("captions", "images") if figure.startswith("text_to") else ("images", "examples")
    if "_at_" in figure or figure == "rbo":
        askers = ("queries",)
    return next((counts[asker] for asker in askers if asker in counts), 0)


def standard_error(share: float, questions: int) -> float:
    """Of a share of so many questions, each answered by itself; 0 for an unknown number."""
    return math.sqrt(max(share * (1 - share), 0.0) / questions) if questions else 0.0


def headlines(outcomes: Mapping[str, Outcome]) -> list[Headline]:
    """One an evaluation that has figures, those farthest above chance first."""
    found = []
    for name, outcome in outcomes.items():
        if outcome.figures:
            figure = next((key for key in outcome.figures if key in _HEADLINES), next(iter(outcome.figures)))
            number = outcome.figures[figure]
            found.append(
                Headline(name=name, figure=figure, number=number, verdict=verdict(figure, number, outcome.counts))
            )
    return sorted(found, key=lambda headline: (headline.verdict != "", -(headline.number.times or 0)))


def apart(outcomes: Mapping[str, Outcome]) -> tuple[list[Headline], list[Headline]]:
    """Headlines of what was learned, and of what was not."""
    found = headlines(outcomes)
    return [one for one in found if not one.verdict], [one for one in found if one.verdict]
