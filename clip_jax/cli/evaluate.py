"""clip-jax evaluate: models through evaluations of their configs or of a named suite, as tables and JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import jax
import numpy as np
from absl import flags
from rich.console import Console

from clip_jax.cli.configs import parse, take_config, to_dataclass
from clip_jax.cli.start import define_process_flags, start
from clip_jax.evals import clip_benchmark
from clip_jax.evals.protocol import Evaluation, Outcome
from clip_jax.evals.side_by_side import column_names, differing, folder_names, side_by_side
from clip_jax.evals.speed import Speed, measure_speed
from clip_jax.evals.suite import EvalConfig, open_evaluations, table, write_json
from clip_jax.evals.suites import SUITES, open_available, skipped_words, suite
from clip_jax.loading import load_encoder
from clip_jax.peers import watched
from clip_jax.plain import to_dict
from clip_jax.report.evaluations import PAGE, write_evaluations
from clip_jax.run_folder import EVALUATION, PICTURES
from clip_jax.runs import Weights, read_config
from clip_jax.subjects import Subject, is_run, open_subject, results_folder

USAGE = f"""usage: clip-jax evaluate MODEL... [--suite [NAME]] [--teacher MODEL] [--data_dir DIR] [--out DIR]
                        [--weights auto|ema|raw] [--step N] [--config configs/X.py]

Runs the evaluations of each run's config, or those of another config or of a suite ({", ".join(SUITES)}) on its best or newest
checkpoint, times its towers, and writes evaluation.json into its folder, the same as a page, evaluation.html, and
clip_benchmark/*.json, which that project's tools read. With a suite or a config a model may be anything that clip_jax.load
opens: a run, a file or folder of OpenAI, open_clip, Hugging Face or SigLIP, hf-hub:org/repo. Several models are shown side by
side, and drawn on one page in the first one's folder, or in --out."""
_DEFAULT = "offline"

_SO_FAR = "evaluation.partial.json"  # what is measured while not all is
_Opened = tuple[Mapping[str, Evaluation], Mapping[str, EvalConfig]]


def main(argv: list[str]) -> int:
    """Exit code 0 once all is measured."""
    values = flags.FlagValues()
    argv, edited = take_config(values, _with_suite(argv))
    weights = flags.DEFINE_enum(
        "weights", "auto", get_args(Weights), "auto: the average where there is one", flag_values=values
    )
    step = flags.DEFINE_integer(
        "step", None, "of the checkpoint; by default the best, else the newest", flag_values=values
    )
    name = flags.DEFINE_string("suite", "", f"evaluations that need no config: {', '.join(SUITES)}", flag_values=values)
    teacher = flags.DEFINE_string("teacher", "", "a model that a suite compares with", flag_values=values)
    data_dir = flags.DEFINE_string("data_dir", "", "where a suite's data lie, by default TFDS's", flag_values=values)
    out = flags.DEFINE_string("out", "", "where results go, by default the model's folder", flag_values=values)
    define_process_flags(values)
    models = parse(values, argv, USAGE)
    if not models:
        raise ValueError("give one run folder, or several, or a model and --suite; see clip-jax evaluate --help")
    if name.value and edited is not None:
        raise ValueError("--suite and --config both name evaluations; give one of them")
    if not name.value and (teacher.value or data_dir.value):
        raise ValueError("--teacher and --data_dir are a suite's; give --suite, or set them in the config's evals")
    columns = column_names(models)
    evals = None if edited is None else to_dataclass(edited).evals
    if name.value:
        evals = suite(name.value, teacher=teacher.value, data_dir=data_dir.value)
    start(values)
    with watched():
        opened = _Evaluations(evals, skip=bool(name.value), teacher=teacher.value)
        for model in models:
            opened.check(model)
        folders = _folders(models, columns, out.value)
        for folder in folders if out.value else ():  # before the work; others are beside a model, once it is there
            _make(folder)
        measured = {}
        for model, column, folder in zip(models, columns, folders, strict=True):
            subject = open_subject(model, weights=cast(Weights, weights.value), step=step.value, folder=folder)
            _make(folder)
            measured[column] = _evaluate(subject, *opened.of(subject), skip=bool(name.value))
        if len(models) > 1 and jax.process_index() == 0:
            console = Console()
            console.print(side_by_side(measured))
            for other in differing(
                {column: opened.settings(model) for column, model in zip(columns, models, strict=True)}
            ):
                console.print(f"{other} is not the same evaluation for all: the configs differ")
        if jax.process_index() == 0:
            page = write_evaluations(folders, Path(out.value) / PAGE if out.value else None)
            print(page.lines[-1])
    return 0


def _folders(models: Sequence[str], columns: Sequence[str], out: str) -> list[Path]:
    """Where each model's results go. Raises ValueError where that is one place for two."""
    if not out:
        found = [results_folder(model) for model in models]
        if twice := [str(folder) for folder in found if found.count(folder) > 1]:
            raise ValueError(f"results of two models would go to {twice[0]}: say where with --out")
        return found
    return [Path(out) / name for name in folder_names(columns)] if len(models) > 1 else [Path(out)]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}, where results are to go, cannot be made: {error.strerror or error}") from error


def _with_suite(argv: list[str]) -> list[str]:
    """`--suite` without a name means the default one."""
    found = []
    for place, argument in enumerate(argv):
        following = argv[place + 1] if place + 1 < len(argv) else "-"
        named = following in SUITES or not (following.startswith(("-", "hf-hub:")) or Path(following).exists())
        found.append(f"--suite={_DEFAULT}" if argument in ("--suite", "-suite") and not named else argument)
    return found


class _Evaluations:
    """Opened once for all models that have the same ones."""

    def __init__(self, evals: Mapping[str, EvalConfig] | None, *, skip: bool, teacher: str):
        self._evals, self._skip, self._opened = evals, skip, list[_Opened]()
        teachers = {teacher: load_encoder(teacher)} if teacher else {}  # no model there is an error, and not skipped
        self._load = lambda source: teachers[source] if source in teachers else load_encoder(source)

    def settings(self, model: str) -> Mapping[str, EvalConfig]:
        """Of a model: given ones, or its run's."""
        return self._evals if self._evals is not None else read_config(Path(model)).evals

    def check(self, model: str) -> None:
        """Raises FileNotFoundError or ValueError for a model without evaluations."""
        if self._evals is None and not is_run(model):
            raise FileNotFoundError(
                f"{model} is no run folder with a checkpoint, so names no evaluations: give --suite or --config, or train first"
            )
        if not self.settings(model):
            raise ValueError(
                f"the config of {model} names no evaluations; give a config whose `evals` does, with --config, or --suite"
            )

    def of(self, subject: Subject) -> _Opened:
        """Opened, and their settings. What a suite's data lack is said once."""
        evals = subject.evals if self._evals is None else self._evals
        for opened, settings in self._opened:
            if settings == evals:
                return opened, settings
        if not self._skip:
            self._opened.append((open_evaluations(evals, load=self._load), evals))
            return self._opened[-1]
        opened, skipped = open_available(evals, load=self._load)
        self._opened.append((opened, evals))
        if skipped and jax.process_index() == 0:
            print(f"skipped {len(skipped)} of {len(evals)} evaluations of the suite:\n{skipped_words(skipped)}")
        return self._opened[-1]


def _evaluate(
    subject: Subject, opened: Mapping[str, Evaluation], evals: Mapping[str, EvalConfig], *, skip: bool
) -> dict[str, Outcome]:
    outcomes = _measured(subject, opened, skip=skip)
    speed = measure_speed(subject.config, subject.params, subject.mesh)
    if jax.process_index() > 0:
        return outcomes
    settings: dict[str, Any] = {"evals": {name: to_dict(evals[name]) for name in outcomes}}
    write_json(subject.folder / EVALUATION, outcomes, subject.about | {"speed": dataclasses.asdict(speed)} | settings)
    (subject.folder / _SO_FAR).unlink(missing_ok=True)
    rows = clip_benchmark.benchmark_rows(outcomes, evals, model=subject.name, pretrained=subject.pretrained)
    clip_benchmark.write_benchmark(subject.folder / clip_benchmark.FOLDER, rows)
    pictures = {f"{name}/{key}": array for name, outcome in outcomes.items() for key, array in outcome.pictures.items()}
    if pictures:
        np.savez_compressed(subject.folder / PICTURES, **pictures)
    _print(subject, outcomes, speed)
    return outcomes


def _measured(subject: Subject, opened: Mapping[str, Evaluation], *, skip: bool) -> dict[str, Outcome]:
    """All of them, in order; what is there already is kept in a file while the next is measured. skip: one whose data turn out
    to be no use is named, and left out, as is one whose data are not here."""
    outcomes: dict[str, Outcome] = {}
    failed: dict[str, str] = {}
    for name, evaluation in opened.items():
        try:
            outcomes[name] = evaluation(subject.encoder)
        except ValueError as error:
            if not skip or jax.process_count() > 1:  # where only some processes find it so, the others would wait
                raise ValueError(f"{name}: {error}") from error
            failed[name] = str(error)
            continue
        if jax.process_index() == 0:
            write_json(subject.folder / _SO_FAR, outcomes, subject.about)
    if failed:
        said = f"{len(failed)} of {len(opened)} evaluations of the suite gave nothing:\n{skipped_words(failed)}"
        if not outcomes:
            raise ValueError(said)
        print(said)
    return outcomes


def _print(subject: Subject, outcomes: Mapping[str, Outcome], speed: Speed) -> None:
    console = Console()
    console.print(subject.said)
    console.print(table(outcomes))
    console.print(
        f"encodes {speed.images:,.0f} images/s and {speed.texts:,.0f} texts/s in batches of {speed.batch_size} on "
        f"{speed.device}, {speed.dtype}"
    )
