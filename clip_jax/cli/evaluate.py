"""clip-jax evaluate: a run's checkpoint through its evaluations, as a table and JSON."""

import dataclasses
from pathlib import Path
from typing import cast, get_args

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from clip_jax.cli.configs import parse, take_config, to_dataclass
from clip_jax.cli.start import define_process_flags, start
from clip_jax.evals.embed import Encoder
from clip_jax.evals.speed import measure_speed
from clip_jax.evals.suite import open_evaluations, run_evaluations, table, write_json
from clip_jax.loading import load_encoder
from clip_jax.peers import watched
from clip_jax.plain import to_dict
from clip_jax.run_folder import EVALUATION, PICTURES
from clip_jax.runs import Weights, load_run

USAGE = """usage: clip-jax evaluate WORKDIR [--weights auto|ema|raw] [--step N] [--config configs/X.py]

Runs the evaluations of the run's config (or of another config) on its best or newest checkpoint, times its towers, and
writes WORKDIR/evaluation.json."""


def main(argv: list[str]) -> int:
    """Exit code 0 once all is measured."""
    values = flags.FlagValues()
    argv, edited = take_config(values, argv)
    weights = flags.DEFINE_enum(
        "weights", "auto", get_args(Weights), "auto: the average where there is one", flag_values=values
    )
    step = flags.DEFINE_integer(
        "step", None, "of the checkpoint; by default the best, else the newest", flag_values=values
    )
    define_process_flags(values)
    folders = parse(values, argv, USAGE)
    if len(folders) != 1:
        raise ValueError(f"give one run folder, got {folders or 'none'}; see clip-jax evaluate --help")
    start(values)
    with watched():
        _evaluate(Path(folders[0]), edited, cast(Weights, weights.value), step.value)
    return 0


def _evaluate(folder: Path, edited: ConfigDict | None, weights: Weights, step: int | None) -> None:
    run = load_run(folder, weights=weights, step=step)
    evals = run.config.evals if edited is None else to_dataclass(edited).evals
    if not evals:
        raise ValueError(
            f"the config of {folder} names no evaluations; give a config whose `evals` does, with --config"
        )
    opened = open_evaluations(evals, load=load_encoder)
    outcomes = run_evaluations(opened, Encoder(run.config.model, run.params, run.mesh))
    speed = measure_speed(run.config.model, run.params, run.mesh)
    if jax.process_index() > 0:
        return
    about = {"run": folder.name, "step": run.step, "weights": run.weights, "speed": dataclasses.asdict(speed)}
    write_json(folder / EVALUATION, outcomes, about | {"evals": to_dict(evals)})
    pictures = {f"{name}/{key}": array for name, outcome in outcomes.items() for key, array in outcome.pictures.items()}
    if pictures:
        np.savez_compressed(folder / PICTURES, **pictures)
    console = Console()
    console.print(f"{folder}, step {run.step:,}, {run.weights} weights")
    console.print(table(outcomes))
    console.print(
        f"encodes {speed.images:,.0f} images/s and {speed.texts:,.0f} texts/s in batches of {speed.batch_size} on "
        f"{speed.device}, {speed.dtype}"
    )
