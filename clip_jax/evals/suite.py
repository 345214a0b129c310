"""Several evaluations under names: opened once, run on any weights, as figures, JSON and a table."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from clip_jax.evals.embed import Encoder
from clip_jax.evals.protocol import Evaluation, Outcome
from clip_jax.evals.retrieval import RETRIEVAL_FIGURES, Retrieval, RetrievalConfig
from clip_jax.evals.showcase import Showcase, ShowcaseConfig
from clip_jax.evals.zero_shot import ZERO_SHOT_FIGURES, ZeroShot, ZeroShotConfig

EvalConfig = RetrievalConfig | ZeroShotConfig | ShowcaseConfig

# kind, as configs write it -> its dataclass
KINDS: dict[str, type] = {"retrieval": RetrievalConfig, "zero_shot": ZeroShotConfig, "showcase": ShowcaseConfig}

_OPEN: dict[type, Any] = {RetrievalConfig: Retrieval, ZeroShotConfig: ZeroShot, ShowcaseConfig: Showcase}


def figure_names(config: EvalConfig) -> tuple[str, ...]:
    """What an evaluation measures, as metrics.jsonl names it after the evaluation's own name."""
    match config:
        case RetrievalConfig():
            return RETRIEVAL_FIGURES
        case ZeroShotConfig():
            return ZERO_SHOT_FIGURES
        case ShowcaseConfig():
            return ()


def open_evaluations(configs: Mapping[str, EvalConfig]) -> dict[str, Evaluation]:
    """Opens each one's data. Raises ValueError or FileNotFoundError, with the evaluation's name, for what cannot work."""
    opened = {}
    for name, config in configs.items():
        try:
            opened[name] = _OPEN[type(config)](config)
            if config.limit < 0:
                raise ValueError(f"limit {config.limit}: give a number of samples, or 0 for all")
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"evals.{name}: {error}") from error
    return opened


def run_evaluations(evaluations: Mapping[str, Evaluation], encoder: Encoder) -> dict[str, Outcome]:
    """All of them, in order."""
    return {name: evaluation(encoder) for name, evaluation in evaluations.items()}


def flat_figures(outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """`name/figure` -> value."""
    return {
        f"{name}/{figure}": number.value
        for name, outcome in outcomes.items()
        for figure, number in outcome.figures.items()
    }


def write_json(path: Path, outcomes: Mapping[str, Outcome], about: Mapping[str, Any]) -> None:
    """{"about": ..., "evaluations": {name: {"figures": {figure: {value, chance}}, "counts": ...}}}."""
    rows = {
        name: {
            "figures": {key: {"value": f.value, "chance": f.chance} for key, f in outcome.figures.items()},
            "counts": outcome.counts,
        }
        for name, outcome in outcomes.items()
    }
    stamp = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    path.write_text(json.dumps({"about": dict(about) | stamp, "evaluations": rows}, indent=2) + "\n")


def table(outcomes: Mapping[str, Outcome]) -> Table:
    """For the terminal: each figure in per cent, with chance and how many times chance it is."""
    view = Table(box=None, pad_edge=False)
    view.add_column("evaluation")
    view.add_column("figure")
    for column in ("%", "chance %", "x chance"):
        view.add_column(column, justify="right")
    for name, outcome in outcomes.items():
        for figure, number in outcome.figures.items():
            chance = "" if number.chance is None else f"{100 * number.chance:.2f}"
            times = f"{number.value / number.chance:.1f}" if number.chance else ""
            view.add_row(name, figure, f"{100 * number.value:.2f}", chance, times)
    return view
