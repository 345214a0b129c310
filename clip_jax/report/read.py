"""A run folder as the report reads it: series by name, the final evaluation, pictures, and notes on what is missing."""

import collections
import dataclasses
import json
import math
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.evals.protocol import Figure, Outcome
from clip_jax.evals.speed import Speed
from clip_jax.evals.suite import read_json
from clip_jax.experiment import TrainConfig
from clip_jax.run_folder import CONFIG, EVALUATION, METRICS, PICTURES, TIMING
from clip_jax.runs import read_config

# What evals/showcase.py keeps.
_QUERIES = ("queries", "query_scores", "query_images")
_MATRIX = ("matrix", "matrix_texts", "matrix_images")
_FAILED = ("failed_texts", "failed_ranks", "failed_wanted", "failed_got", "failed_of")
_SHOWCASE = {*_QUERIES, *_MATRIX, *_FAILED}
_EMPTY = Outcome(figures={}, counts={})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One figure over steps: i64[N] and f64[N], NaN where it was not finite."""

    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """All that a run wrote down.

    metrics, timing: by name. outcomes: of the final evaluation by name, and about what it was of; where measured is
    False there is none yet, and they are the last ones made in training, without chance. speed: of encoding, on the
    machine of the evaluation; None where it is unknown. bad: replaced samples by shard,
    reasons: by reason. date: "2026-11-22 10:25 UTC" of the evaluation, else of the last figures. problems: files that
    could not be read in full, one sentence each.
    """

    folder: Path
    config: TrainConfig
    metrics: dict[str, Series]
    timing: dict[str, Series]
    bad: collections.Counter[str]
    reasons: collections.Counter[str]
    outcomes: dict[str, Outcome]
    measured: bool
    about: dict[str, Any]
    speed: Speed | None
    date: str
    problems: list[str]

    @property
    def step(self) -> int:
        """The last one that was logged; of a run without figures, the one that was evaluated."""
        logged = [int(series.steps[-1]) for series in self.metrics.values()]
        return max(logged) if logged else int(self.about.get("step", 0))

    @property
    def seconds(self) -> float:
        """Time in training steps, evaluation and saving left out; NaN where it is unknown."""
        if "step_seconds" not in self.timing:
            return math.nan
        steps, each = self.timing["step_seconds"].steps, self.timing["step_seconds"].values
        known = each > 0
        if not known.any():
            return math.nan
        each = np.where(known, each, np.median(each[known]))
        return float((np.diff(steps, prepend=0) * each).sum())

    @property
    def pairs_per_second(self) -> float:
        """Over all steps; NaN where it is unknown."""
        seen = self.timing["step_seconds"].steps[-1] if "step_seconds" in self.timing else 0
        return float(seen * self.config.batch_size / self.seconds)

    def last(self, name: str) -> float:
        """The newest value of a figure; 0 for one that was never written."""
        return float(self.metrics[name].values[-1]) if name in self.metrics else 0.0


def read_run(folder: Path, *, bare: bool = False) -> Recorded:
    """bare: a run without figures is read too, which is then one of its problems.

    Raises FileNotFoundError for a folder that is no run's or has no figures yet, saying what to do; ValueError for a
    config that cannot be read. Whatever else is missing or damaged becomes a problem, not an error."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no {CONFIG}; give the --workdir of clip-jax train")
    problems: list[str] = []
    config = read_config(folder)
    metrics = _series(folder / METRICS, problems)
    if not metrics:
        lack = "is empty" if (folder / METRICS).is_file() else "is missing"
        if not bare:
            raise FileNotFoundError(
                f"{folder} has no figures yet: {METRICS} {lack}; run clip-jax train for config.log_every = "
                f"{config.log_every} steps or more, then draw the report again"
            )
        problems.append(f"{METRICS} {lack}: nothing is known of the training.")
    bad = [row for file in sorted(folder.glob("bad_samples*.jsonl")) for row in _rows(file, problems)]
    about, outcomes = _evaluation(folder / EVALUATION, problems)
    measured = bool(outcomes)
    for name, pictures in _pictures(folder / PICTURES, problems).items():
        outcomes[name] = dataclasses.replace(outcomes.get(name, _EMPTY), pictures=pictures)
    if not measured:
        outcomes |= _measured_in_training(metrics, config)
    newest = folder / (METRICS if metrics else CONFIG)
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(newest.stat().st_mtime))
    return Recorded(
        folder=folder,
        config=config,
        metrics=metrics,
        timing=_series(folder / TIMING, problems),
        bad=collections.Counter(str(row["shard"]) for row in bad if "shard" in row),
        reasons=collections.Counter(str(row["reason"]) for row in bad if "reason" in row),
        outcomes=outcomes,
        measured=measured,
        about=about,
        speed=_speed(about, problems),
        date=str(about["time"]).replace("T", " ")[:16] + " UTC" if "time" in about else stamp,
        problems=problems,
    )


def _series(file: Path, problems: list[str]) -> dict[str, Series]:
    """By figure; where a step was written twice, as by two copies of a run joined by hand, the later row holds."""
    points: dict[str, dict[int, float]] = {}
    for row in _rows(file, problems):
        for name, value in row.items():
            if name != "step" and (value is None or isinstance(value, (int, float))):
                points.setdefault(name, {})[row["step"]] = math.nan if value is None else float(value)
    found = {}
    for name, by_step in points.items():
        steps = sorted(by_step)
        found[name] = Series(steps=np.array(steps), values=np.array([by_step[step] for step in steps]))
    return found


def _rows(file: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    damaged = 0
    for line in file.read_bytes().splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row
        else:
            damaged += bool(line.strip())
    if damaged:
        problems.append(f"{file.name}: {damaged} damaged {'line' if damaged == 1 else 'lines'} left out.")


def evaluation_of(key: str, config: TrainConfig) -> str:
    """The evaluation that a figure of metrics.jsonl, `name/figure`, belongs to; "" for what is none, as is a loss of one of
    several teachers, `loss/teacher`."""
    name = key.rpartition("/")[0]
    return "" if name in config.objective.weights and name not in config.evals else name


def _measured_in_training(metrics: dict[str, Series], config: TrainConfig) -> dict[str, Outcome]:
    figures: dict[str, dict[str, Figure]] = {}
    for key, series in metrics.items():
        if name := evaluation_of(key, config):
            figures.setdefault(name, {})[key.rpartition("/")[2]] = Figure(value=float(series.values[-1]), chance=None)
    return {name: Outcome(figures=named, counts={}) for name, named in figures.items()}


def _evaluation(file: Path, problems: list[str]) -> tuple[dict[str, Any], dict[str, Outcome]]:
    if not file.is_file():
        return {}, {}
    try:
        return read_json(file.read_text(encoding="utf-8"))
    except ValueError:
        problems.append(f"{file.name} is damaged and was left out; evaluate the run again.")
        return {}, {}


def _speed(about: dict[str, Any], problems: list[str]) -> Speed | None:
    if "speed" not in about:
        return None
    try:
        speed = Speed(**about["speed"])
        if speed.images > 0 and speed.texts > 0:
            return speed
    except TypeError:
        pass
    problems.append(f"about.speed in {EVALUATION} is none that this report knows; evaluate the run again.")
    return None


def _pictures(file: Path, problems: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """By showcase, those that are whole."""
    if not file.is_file():
        return {}
    found: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for key in arrays.files:
                name, _, what = key.rpartition("/")
                found.setdefault(name, {})[what] = arrays[key]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        problems.append(f"{file.name} is damaged and was left out; evaluate the run again.")
        return {}
    whole = {name: arrays for name, arrays in found.items() if arrays.keys() >= _SHOWCASE}
    if len(whole) < len(found):
        lacking = ", ".join(sorted(set(found) - set(whole)))
        problems.append(f"{file.name} holds pictures of {lacking} that this report does not know.")
    return whole
