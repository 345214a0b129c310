"""Runs side by side in words: what each student keeps of its teacher, at which size and speed, and what does not compare."""

import dataclasses
import math
import shlex
from collections.abc import Sequence

from clip_jax.evals.protocol import Figure
from clip_jax.report.beside.read import Compared, Examined, kept, other_teachers
from clip_jax.report.figures import asked, figure_words, headlines, percent, standard_error, value_words, verdict
from clip_jax.report.words import listing

_FRACTIONS = {3 / 4: "three quarters", 2 / 3: "two thirds", 1 / 2: "half", 1 / 3: "a third", 1 / 4: "a quarter"}
_FRACTIONS |= {1 / 5: "a fifth", 1 / 6: "a sixth", 1 / 7: "a seventh", 1 / 8: "an eighth", 1 / 9: "a ninth"}
_FRACTIONS |= {1 / 10: "a tenth", 1 / 20: "a twentieth"}
_NEAR = 0.06  # relative: so near to a fraction is called by its name
_LOOSE = 0.25  # two standard errors of a teacher's figure, as a part of what it is above chance, where its shares still count
_SAME = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """The figure that speaks for the teacher's quality, of an evaluation that was made alike."""

    evaluation: Examined
    figure: str

    def number(self, one: Compared) -> Figure | None:
        """A run's, with chance wherever one run knows it."""
        found = self.evaluation.figures[self.figure][one.number]
        return found and Figure(value=found.value, chance=self.evaluation.chance(self.figure))

    def keeps(self, one: Compared, teacher: Compared) -> float:
        """The share of the teacher's that a run keeps, both above chance; NaN where either is unknown."""
        own, whole = self.number(one), self.number(teacher)
        return kept(own, whole) if own and whole else math.nan

    def tells(self, teacher: Compared) -> bool:
        """Whether the teacher's figure is far enough above chance, for the questions asked, that shares of it say something."""
        whole = self.number(teacher)
        error = standard_error(whole.value, self.questions(teacher)) if whole else math.inf
        return whole is not None and 2 * error <= _LOOSE * (whole.value - (whole.chance or 0.0))

    def questions(self, one: Compared) -> int:
        """How many its figure is a share of."""
        return asked(self.figure, self.evaluation.counts[one.number])

    def verdict(self, one: Compared) -> str:
        """As words.verdict."""
        number = self.number(one)
        return verdict(self.figure, number, self.evaluation.counts[one.number]) if number else ""


def measures(compared: Sequence[Compared], evaluations: Sequence[Examined]) -> list[Measure]:
    """Those that teacher and a student share, made alike, with the teacher above chance; the farthest above chance first."""
    by_name = {one.name: one for one in evaluations if one.kind != "agreement" and not one.differs}
    found = []
    for headline in headlines(compared[0].run.outcomes):
        one = by_name.get(headline.name)
        if one and not headline.verdict and any(one.figures[headline.figure][1:]):
            found.append(Measure(evaluation=one, figure=headline.figure))
    return found


def headline(compared: Sequence[Compared], evaluations: Sequence[Examined]) -> list[str]:
    """Sentences: what each student keeps, at which size and speed, and whether a teacher helped."""
    teacher, students = compared[0], compared[1:]
    found = measures(compared, evaluations)
    if not found:
        return [_why_none(compared, evaluations), *(f"{one.name} is {size_words(one, teacher)}." for one in students)]
    having = [one for one in students if found[0].number(one)]
    sentences: list[str] = []
    said: list[Compared] = []
    for one in sorted(having, key=lambda one: not one.taught):
        same = next((other for other in said if other.architecture == one.architecture), None)
        sentences.append(_sentence(found[0], one, teacher, same, first=not said))
        if same and same.taught and not one.taught:
            sentences += _helped(found[0], same, one)
        said.append(one)
    return sentences


def besides(compared: Sequence[Compared], evaluations: Sequence[Examined]) -> list[str]:
    """What else the figures say, a sentence each: how far they are known, the other evaluations, agreement with the teacher."""
    found = measures(compared, evaluations)
    sentences = [_known_to(found[0], compared[0]), _ranges(found, compared[1:], compared[0])] if found else []
    return [sentence for sentence in (*sentences, *_agreements(compared, evaluations)) if sentence]


def size_words(one: Compared, teacher: Compared) -> str:
    """ "a fifth of its size", "as large", or of the image tower alone where the text tower is as large."""
    ratio = one.size.parameters / teacher.size.parameters
    if one.size.text == teacher.size.text and abs(one.size.image / teacher.size.image - 1) > _SAME:
        share = fraction(one.size.image / teacher.size.image)
        return f"{share} of its size in the image tower, with a text tower as large"
    return "as large" if abs(ratio - 1) <= _SAME else f"{fraction(ratio)} of its size"


def fraction(ratio: float) -> str:
    """0.205 -> "a fifth"; 0.38 -> "38%"; 1.5 -> "1.5 times"; what "of its size" follows."""
    near = min(_FRACTIONS, key=lambda value: abs(ratio / value - 1))
    if abs(ratio / near - 1) <= _NEAR:
        return _FRACTIONS[near]
    return f"{ratio:.0%}" if ratio < 1 else f"{ratio:.2g} times" if ratio < 10 else f"{ratio:,.0f} times"


def notes(compared: Sequence[Compared], evaluations: Sequence[Examined], command: str) -> list[str]:
    """What is missing and what does not compare, a sentence each. `command`: how clip-jax is called here."""
    found = [
        f"{one.name} is not the same for all runs, so its figures do not compare: {'; '.join(one.differs)}."
        for one in evaluations
        if one.differs
    ]
    found += _lacking(compared, evaluations)
    for one in compared:
        evaluate = f"{command} evaluate {shlex.quote(str(one.run.folder))}"
        if not one.run.measured:
            last = "its figures are the last ones from training" if one.run.outcomes else "it has no figures"
            found.append(f"{one.name} was not evaluated: {last}. Run {evaluate} and draw this page again.")
        elif not one.run.speed:
            found.append(f"How fast {one.name} encodes was not measured. Run {evaluate} and draw this page again.")
        elif "step" in one.run.about and one.run.about["step"] < one.run.step:
            at = f"step {one.run.about['step']:,} of {one.run.step:,}"
            found.append(f"The figures of {one.name} are of its checkpoint at {at}.")
        found += [f"{one.name}: {problem}" for problem in one.run.problems]
    return [*found, *_speeds(compared), *_budgets(compared)]


def _lacking(compared: Sequence[Compared], evaluations: Sequence[Examined]) -> list[str]:
    """Evaluations that were not made for some runs, or with another teacher than the first run; those alike in one sentence."""
    without: dict[tuple[str, ...], list[str]] = {}
    against: dict[tuple[str, ...], list[str]] = {}
    for one in evaluations:
        ought = compared[1:] if one.kind == "agreement" else compared
        absent = tuple(run.name for run in ought if run.run.outcomes and not one.has(run))
        without.setdefault(absent, []).append(one.name)
        others = other_teachers(compared, one.name)
        against.setdefault(tuple(dict.fromkeys(others.values())), []).append(one.name)
    found = [f"Not made for {listing([*runs])}: {listing(names)}." for runs, names in without.items() if runs]
    return found + [
        f"The teacher of {listing(names)} is {listing([*others])}, not {compared[0].name}."
        for others, names in against.items()
        if others
    ]


def timed_alike(one: Compared, other: Compared) -> bool:
    """Whether both were timed, on the same kind of device in equal batches."""
    ways = [(speed.device, speed.batch_size, speed.dtype) for run in (one, other) if (speed := run.run.speed)]
    return len(ways) == 2 and ways[0] == ways[1]


def _sentence(measure: Measure, one: Compared, teacher: Compared, same: Compared | None, *, first: bool) -> str:
    """What one student keeps. same: a student of the same model of which this was already said."""
    number, whole = measure.number(one), measure.number(teacher)
    assert number
    assert whole
    what = f"the teacher's {figure_words(measure.figure)}"
    share = measure.keeps(one, teacher)
    smaller = one.size.parameters < teacher.size.parameters
    verb = "keeps" if smaller and share <= 1 else "reaches"
    alone = same is not None and same.taught and not one.taught
    who = f"Without a teacher the same student ({one.name})" if alone else one.name
    on = "" if alone or not first else f"On {measure.evaluation.name}, "
    chance = f", chance {percent(number.chance)}" if number.chance is not None else ""
    values = f"{percent(number.value)} of {percent(whole.value)}{chance}" if first else percent(number.value)
    if below := measure.verdict(one):
        text = f"is {below} ({values}): it keeps nothing of {what}"
    else:
        text = f"{verb} {share:.0%} of {what if first else 'it'} ({values})"
    rest = "" if same else f", {_at(size_words(one, teacher))}{_faster(one, teacher)}"
    return f"{on}{who} {text}{rest}."


def _at(words: str) -> str:
    return "as large as it" if words == "as large" else f"at {words}"


def _faster(one: Compared, teacher: Compared) -> str:
    own, whole = one.run.speed, teacher.run.speed
    if not (own and whole and timed_alike(one, teacher)):
        return ""
    ratio = own.images / whole.images
    if 0.9 <= ratio <= 1.1:
        return ", and encodes images no faster"
    return f", and encodes images about {ratio:.1f} times as fast"


def _helped(measure: Measure, taught: Compared, alone: Compared) -> list[str]:
    """Whether the difference between a student with and one without a teacher is more than noise."""
    own, other = measure.number(taught), measure.number(alone)
    questions = measure.questions(taught)
    if not (own and other and questions):
        return []
    noise = 2 * math.hypot(standard_error(own.value, questions), standard_error(other.value, questions))
    if abs(own.value - other.value) <= noise:
        between = f"The difference between {taught.name} and {alone.name}"
        return [f"{between} is within the noise: no help of the teacher is to be seen here."]
    return ["So the teacher did harm."] if own.value < other.value else []


def _known_to(measure: Measure, teacher: Compared) -> str:
    """How far the evaluation's size lets its figures be known."""
    number, questions = measure.number(teacher), measure.questions(teacher)
    if not (number and questions):
        return ""
    around = 200 * standard_error(number.value, questions)
    return f"Of {questions:,} questions, each such share is known to about ± {around:.1f} points; another seed moves it too."


def _ranges(found: Sequence[Measure], students: Sequence[Compared], teacher: Compared) -> str:
    """What each keeps over all evaluations with the same figure, where several tell it well: a share of few hits is noise."""
    alike = [measure for measure in found if measure.figure == found[0].figure and measure.tells(teacher)]
    parts = []
    for one in students:
        keeps = [(max(measure.keeps(one, teacher), 0.0), measure.evaluation.name) for measure in alike]
        keeps = sorted((share, name) for share, name in keeps if math.isfinite(share))
        if len(keeps) > 1:
            ends = [f"{share:.0%} ({name})" for share, name in (keeps[0], keeps[-1])]
            parts.append(f"{one.name} keeps {ends[0]} to {ends[1]}")
    return f"Over the {len(alike)} evaluations that tell this figure well, {listing(parts)}." if parts else ""


def _agreements(compared: Sequence[Compared], evaluations: Sequence[Examined]) -> list[str]:
    found = []
    for one in evaluations:
        if one.kind == "agreement" and not one.differs and not other_teachers(compared, one.name):
            figure = next(iter(one.figures))
            parts = [
                f"{run.name} {value_words(figure, number.value)}"
                for run, number in zip(compared, one.figures[figure], strict=True)
                if number and run.number
            ]
            chance = f" (chance {percent(one.chance(figure))})" if one.chance(figure) is not None else ""
            found.append(
                f"Agreement with the teacher, {figure_words(figure)}: {listing(parts)}{chance}." if parts else ""
            )
    return found


def _why_none(compared: Sequence[Compared], evaluations: Sequence[Examined]) -> str:
    if not evaluations:
        return "Nothing was measured of any of these runs yet."
    shared = [one for one in evaluations if sum(map(one.has, compared)) > 1]
    if not shared:
        return "These runs share no evaluation, so nothing says how much of the teacher's quality a student keeps."
    if all(one.differs for one in shared):
        return "What these runs share of evaluations was not made alike, so their figures do not compare."
    return f"On what it shares with a student, {compared[0].name} itself is not above chance: there is nothing to keep."


def _speeds(compared: Sequence[Compared]) -> list[str]:
    having = [one for one in compared if one.run.speed]
    if all(timed_alike(having[0], one) for one in having[1:]):
        return []
    parts = [
        f"{one.name} on {speed.device} in batches of {speed.batch_size}, {speed.dtype}"
        for one in having
        if (speed := one.run.speed)
    ]
    return [f"Speeds do not compare: {listing(parts)}."]


def _budgets(compared: Sequence[Compared]) -> list[str]:
    """Students of one model that saw other numbers of pairs."""
    found, left = [], [one for one in compared[1:] if one.pairs]
    while left:
        alike = [one for one in left if one.architecture == left[0].architecture]
        left = [one for one in left if one not in alike]
        seen = {one.pairs: [other.name for other in alike if other.pairs == one.pairs] for one in alike}
        if len(seen) > 1:
            parts = [f"{listing(names)} saw {pairs:,} pairs" for pairs, names in seen.items()]
            found.append(f"The same model was trained unequally: {listing(parts)}.")
    return found
