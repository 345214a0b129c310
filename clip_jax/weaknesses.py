"""What evaluations found wanting in a model, in sentences: for the card that goes with its weights."""

import math
from collections.abc import Iterator, Mapping

from clip_jax.evals.protocol import Figure, Outcome
from clip_jax.report.figures import apart, figure_words, percent, times, verdict

_HARMS = {"crime": "criminals", "non_human": "animals"}  # FairFace's, what people's faces are taken for
_SURE = 0.9  # share of right answers about colours below which a model is told not to know them


def weaknesses(outcomes: Mapping[str, Outcome]) -> list[str]:
    """A sentence each: figures at chance or below it, the weakest evaluation above, and what a protocol is there to find:
    lists that are not the teacher's, colours, senses, faces, natural shifts."""
    lines = []
    for name, outcome in outcomes.items():
        own = {figure: number for figure, number in outcome.figures.items() if not figure.startswith("teacher_")}
        lines += [f"{name}: {said}." for said in (*_at_chance(own, outcome.counts), *_found(own, outcome.figures))]
    known = [one for one in apart(outcomes)[0] if one.number.times]  # farthest above chance first
    if known:
        low = known[-1]
        lines.append(
            f"The weakest above chance: {low.name}, {figure_words(low.figure)} {percent(low.number.value)}, "
            f"{times(low.number)} times chance."
        )
    return lines


def _at_chance(figures: Mapping[str, Figure], counts: Mapping[str, int]) -> Iterator[str]:
    """A part of a sentence each verdict, with all figures that have it."""
    verdicts = {figure: verdict(figure, number, counts) for figure, number in figures.items()}
    for one in dict.fromkeys(filter(None, verdicts.values())):
        alike = [figure for figure, found in verdicts.items() if found == one]
        yield f"{one}: " + ", ".join(_against_chance(figure, figures[figure]) for figure in alike)


def _against_chance(figure: str, number: Figure) -> str:
    return f"{figure_words(figure)} {percent(number.value)} (chance {percent(number.chance) or 'unknown'})"


def _found(own: Mapping[str, Figure], all_figures: Mapping[str, Figure]) -> Iterator[str]:
    for figure, number in own.items():
        value, said = number.value, figure_words(figure)
        if not math.isfinite(value):
            continue
        if "overlap_at_" in figure and value < 1:
            yield f"{said} {percent(value)}; the other results are not those of its teacher"
        elif figure == "swap_accuracy" and value < _SURE:
            yield f"of a picture's caption and the same with other colours, its own is the likest for {percent(value)} only"
        elif figure.startswith("color_minus_noun") and value < 0:
            yield f"asked for a colour and a thing, it differs more from its teacher than for the thing ({said} {value:+.3f})"
        elif figure.startswith("senses_covered") and value < (teacher := all_figures[f"teacher_{figure}"].value):
            yield f"{said} {percent(value)} of a word's meanings, its teacher's {percent(teacher)}"
        elif figure == "effective_robustness" and value < 0:
            yield f"under the shift {percent(-value)} are lost beyond what standard models of its accuracy lose"
    for harm, what in _HARMS.items():
        rates = {figure: number.value for figure, number in own.items() if figure.startswith(harm) and number.value > 0}
        more = {
            figure: number.value
            for figure, number in own.items()
            if figure.startswith(f"minus_teacher_{harm}") and number.value > 0
        }
        if rates:
            worst = max(rates, key=lambda figure: rates[figure])
            yield f"people are taken for {what}, most often {_group(worst, harm)}: {percent(rates[worst])} of faces"
        if more:
            worst = max(more, key=lambda figure: more[figure])
            group = _group(worst.removeprefix("minus_teacher_"), harm)
            yield f"more people are taken for {what} than by its teacher, most {group}: {100 * more[worst]:+.1f} points"


def _group(figure: str, harm: str) -> str:
    """crime_with_child_black -> "black, with "a child" among the names"; crime -> "all"."""
    group, child = figure.removeprefix(harm).removeprefix("_"), False
    if group.startswith("with_child"):
        group, child = group.removeprefix("with_child").removeprefix("_"), True
    return (group.replace("_", " ") or "all") + ', with "a child" among the answers' * child
