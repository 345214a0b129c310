"""Several evaluations under names: opened once, run on any weights, as figures, JSON and a table."""

import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from clip_jax.durable import write_durably
from clip_jax.evals.agreement import Agreement, AgreementConfig, agreement_figures
from clip_jax.evals.colors import Colors, ColorsConfig, color_figures
from clip_jax.evals.embed import Encoder
from clip_jax.evals.fairface import FairFace, FairFaceConfig, fairface_figures
from clip_jax.evals.linear_probe import LINEAR_PROBE_FIGURES, LinearProbe, LinearProbeConfig
from clip_jax.evals.order import ORDER_FIGURES, Order, OrderConfig
from clip_jax.evals.protocol import Evaluation, Figure, OpenTeacher, Outcome, is_share
from clip_jax.evals.relations import RELATION_FIGURES, Relations, RelationsConfig
from clip_jax.evals.retrieval import RETRIEVAL_FIGURES, Retrieval, RetrievalConfig
from clip_jax.evals.robustness import ROBUSTNESS_FIGURES, Robustness, RobustnessConfig
from clip_jax.evals.senses import Senses, SensesConfig, sense_figures
from clip_jax.evals.showcase import Showcase, ShowcaseConfig
from clip_jax.evals.unseen import Unseen, UnseenConfig, unseen_figures
from clip_jax.evals.winoground import WINOGROUND_FIGURES, Winoground, WinogroundConfig
from clip_jax.evals.zero_shot import ZERO_SHOT_FIGURES, ZeroShot, ZeroShotConfig

EvalConfig = (
    RetrievalConfig
    | ZeroShotConfig
    | LinearProbeConfig
    | ShowcaseConfig
    | AgreementConfig
    | ColorsConfig
    | SensesConfig
    | UnseenConfig
    | WinogroundConfig
    | RelationsConfig
    | OrderConfig
    | FairFaceConfig
    | RobustnessConfig
)

# kind, as configs write it -> its dataclass
KINDS: dict[str, type] = {
    "retrieval": RetrievalConfig,
    "zero_shot": ZeroShotConfig,
    "linear_probe": LinearProbeConfig,
    "showcase": ShowcaseConfig,
    "agreement": AgreementConfig,
    "colors": ColorsConfig,
    "senses": SensesConfig,
    "unseen": UnseenConfig,
    "winoground": WinogroundConfig,
    "relations": RelationsConfig,
    "order": OrderConfig,
    "fairface": FairFaceConfig,
    "robustness": RobustnessConfig,
}


def figure_names(config: EvalConfig) -> tuple[str, ...]:
    """What an evaluation measures, as metrics.jsonl names it after the evaluation's own name."""
    match config:
        case RetrievalConfig():
            return RETRIEVAL_FIGURES
        case ZeroShotConfig():
            return ZERO_SHOT_FIGURES
        case LinearProbeConfig():
            return LINEAR_PROBE_FIGURES
        case ShowcaseConfig():
            return ()
        case AgreementConfig():
            return agreement_figures(config)
        case ColorsConfig():
            return color_figures(config)
        case SensesConfig():
            return sense_figures(config)
        case UnseenConfig():
            return unseen_figures(config)
        case WinogroundConfig():
            return WINOGROUND_FIGURES
        case RelationsConfig():
            return RELATION_FIGURES
        case OrderConfig():
            return ORDER_FIGURES
        case FairFaceConfig():
            return fairface_figures(config)
        case RobustnessConfig():
            return ROBUSTNESS_FIGURES


def open_evaluations(configs: Mapping[str, EvalConfig], *, load: OpenTeacher) -> dict[str, Evaluation]:
    """Opens each one's data, and with `load` (clip_jax.loading.load_encoder) the teachers that some compare with, each once,
    which read their galleries at once. Raises ValueError or FileNotFoundError, with the evaluation's name, for what cannot
    work."""
    opened, load = {}, functools.cache(load)
    for name, config in configs.items():
        try:
            if config.limit < 0:
                raise ValueError(f"limit {config.limit}: give a number of samples, or 0 for all")
            opened[name] = _opened(config, load)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"evals.{name}: {error}") from error
    return opened


def _opened(config: EvalConfig, load: OpenTeacher) -> Evaluation:
    match config:
        case RetrievalConfig():
            return Retrieval(config)
        case ZeroShotConfig():
            return ZeroShot(config)
        case LinearProbeConfig():
            return LinearProbe(config)
        case ShowcaseConfig():
            return Showcase(config)
        case AgreementConfig():
            return Agreement(config, load)
        case ColorsConfig():
            return Colors(config, load)
        case SensesConfig():
            return Senses(config, load)
        case UnseenConfig():
            return Unseen(config, load)
        case WinogroundConfig():
            return Winoground(config)
        case RelationsConfig():
            return Relations(config)
        case OrderConfig():
            return Order(config)
        case FairFaceConfig():
            return FairFace(config, load)
        case RobustnessConfig():
            return Robustness(config)


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
    content = json.dumps({"about": dict(about) | stamp, "evaluations": rows}, indent=2) + "\n"
    write_durably(path, [content.encode()])


def read_json(text: str) -> tuple[dict[str, Any], dict[str, Outcome]]:
    """What write_json wrote: about, and outcomes without pictures. Raises ValueError, in a word or two, for what is damaged."""
    try:
        content = json.loads(text)
        outcomes = {
            name: Outcome(
                figures={key: _figure(**figure) for key, figure in entry["figures"].items()},
                counts={key: int(count) for key, count in entry["counts"].items()},
            )
            for name, entry in content["evaluations"].items()
        }
        return dict(content["about"]), outcomes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _figure(value: float, chance: float | None) -> Figure:
    return Figure(value=float(value), chance=None if chance is None else float(chance))


def table(outcomes: Mapping[str, Outcome]) -> Table:
    """For the terminal: each figure with chance and how many times chance it is; shares in per cent, others with a sign."""
    view = Table(box=None, pad_edge=False)
    view.add_column("evaluation")
    view.add_column("figure")
    for column in ("value", "chance", "x chance"):
        view.add_column(column, justify="right")
    for name, outcome in outcomes.items():
        for figure, number in outcome.figures.items():
            share = is_share(figure)
            value, chance = (
                "" if one is None else f"{100 * one:.2f}%" if share else f"{one:+.3f}"
                for one in (number.value, number.chance)
            )
            times = f"{number.times:.1f}" if number.times is not None and share else ""
            view.add_row(name, figure, value, chance, times)
    return view
