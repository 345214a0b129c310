"""Runs lined up: names that tell them apart, their sizes, and their evaluations figure by figure."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_jax.evals.protocol import Figure
from clip_jax.models.size import Size, size
from clip_jax.plain import to_dict
from clip_jax.report.read import Recorded, read_run
from clip_jax.report.words import listing

_ORDER = (
    "retrieval",
    "colors",
    "agreement",
    "zero_shot",
    "linear_probe",
)  # kinds of evaluations as the page shows them; others follow
_OF_TEACHER = "teacher_"  # begins figures that evals.agreement and evals.colors measure of the student's teacher
_TRAINING = {"vision_cfg.patch_dropout", "text_cfg.tokenizer"}  # settings that change no architecture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """One of the runs. number: its place among them, 0 the teacher's."""

    number: int
    name: str
    run: Recorded
    size: Size

    @property
    def taught(self) -> bool:
        """Whether it had a teacher in training."""
        return bool(self.run.config.teachers)

    @property
    def architecture(self) -> dict[str, Any]:
        """Equal for models that compute the same of the same weights."""
        model = to_dict(self.run.config.model)
        whole = {key: model[key] for key in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}
        return {key: value for key, value in _flat(whole).items() if key not in _TRAINING}

    @property
    def pairs(self) -> int:
        """Pairs seen in training; 0 where that is unknown."""
        return self.run.step * self.run.config.batch_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examined:
    """One evaluation of all runs. figures: name -> one a run, None for runs without it. counts: as Outcome's, one a run.
    differs: how the runs' sets or settings differ, a phrase each."""

    name: str
    kind: str
    figures: dict[str, list[Figure | None]]
    counts: list[Mapping[str, int]]
    differs: list[str]

    def has(self, run: Compared) -> bool:
        """Whether any figure of the run is known."""
        return any(numbers[run.number] for numbers in self.figures.values())

    def chance(self, figure: str) -> float | None:
        """Of the first run that has one."""
        known = (number.chance for number in self.figures[figure] if number and number.chance is not None)
        return next(known, None)


def read_compared(folders: Sequence[Path]) -> list[Compared]:
    """Raises ValueError for a folder given twice; FileNotFoundError for one that is no run's."""
    found = []
    names = distinct_names([folder.resolve() for folder in folders])
    for number, (folder, name) in enumerate(zip(folders, names, strict=True)):
        run = read_run(folder, bare=True)
        found.append(Compared(number=number, name=name, run=run, size=size(run.config.model)))
    return found


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as many of those above them as it takes to tell them apart. Raises ValueError for a folder
    given twice."""
    for folder in folders:
        if folders.count(folder) > 1:
            raise ValueError(f"{folder.name} is given twice; give different run folders")
    depth = next(n for n in itertools.count(1) if len({folder.parts[-n:] for folder in folders}) == len(folders))
    return ["/".join(folder.parts[-depth:]) for folder in folders]


def examined(compared: Sequence[Compared]) -> list[Examined]:
    """Every evaluation that has figures, the retrievals first."""
    names = list(dict.fromkeys(name for one in compared for name, out in one.run.outcomes.items() if out.figures))
    found = [_examined(name, compared) for name in names]
    place = {kind: number for number, kind in enumerate(_ORDER)}
    return sorted(found, key=lambda one: place.get(one.kind, len(place)))


def settings(one: Compared, name: str) -> dict[str, Any]:
    """Of an evaluation as it was made, or as the run's config has it; {} where neither is known."""
    made = one.run.about.get("evals")
    if isinstance(made, dict):
        given = made.get(name)
        return given if isinstance(given, dict) else {}
    config = one.run.config.evals
    return to_dict(config[name]) if name in config else {}


def differences(compared: Sequence[Compared], name: str) -> list[str]:
    """How the runs' settings and sets of one evaluation differ: "limit is 300 for a and 500 for b"."""
    having = [one for one in compared if name in one.run.outcomes]
    tables = [(one, _flat(settings(one, name))) for one in having]
    teachers = [
        (one.name, {"teacher": table["teacher"]}) for one, table in tables if one.number and table.get("teacher")
    ]
    plain = [(one.name, {key: value for key, value in table.items() if key != "teacher"}) for one, table in tables]
    found = _disagreements([(name, table) for name, table in plain if table]) + _disagreements(teachers)
    if not found:  # the same settings on data that have changed since
        counts = [(one.name, _flat(one.run.outcomes[name].counts)) for one in having if one.run.measured]
        found = _disagreements(counts)
    return found


def other_teachers(compared: Sequence[Compared], name: str) -> dict[str, str]:
    """Runs whose evaluation measured another teacher than the first run: name -> that teacher."""
    folder = compared[0].run.folder.resolve().name
    named = {one.name: str(settings(one, name).get("teacher", "")) for one in compared[1:]}
    return {run: teacher for run, teacher in named.items() if teacher and Path(teacher).name != folder}


def _disagreements(tables: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    found = []
    for key in dict.fromkeys(key for _, table in tables for key in table):
        values: dict[str, list[str]] = {}
        for name, table in tables:
            values.setdefault(_short(table.get(key, "absent")), []).append(name)
        if len(values) > 1:
            found.append(f"{key} is {listing([f'{value} for {listing(names)}' for value, names in values.items()])}")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _examined(name: str, compared: Sequence[Compared]) -> Examined:
    outcomes = [one.run.outcomes.get(name) for one in compared]
    names = dict.fromkeys(figure for outcome in outcomes if outcome for figure in outcome.figures)
    figures = {key: [outcome.figures.get(key) if outcome else None for outcome in outcomes] for key in names}
    for key in [key for key in figures if key.startswith(_OF_TEACHER) and key.removeprefix(_OF_TEACHER) in figures]:
        if other_teachers(compared, name):
            break
        own, measured = figures[key.removeprefix(_OF_TEACHER)], figures.pop(key)
        own[0] = own[0] or next(filter(None, measured), None)  # a student's evaluation measured the teacher too
    kinds = (settings(one, name).get("kind", "") for one in compared)
    return Examined(
        name=name,
        kind=next(filter(None, kinds), ""),
        figures=figures,
        counts=[outcome.counts if outcome else {} for outcome in outcomes],
        differs=differences(compared, name),
    )


def kept(number: Figure, teacher: Figure) -> float:
    """The share of what the teacher reaches above chance; NaN where the teacher reaches nothing above it."""
    chance = teacher.chance or number.chance or 0.0
    above = teacher.value - chance
    return (number.value - chance) / above if above > 0 else math.nan
