"""Whether a config fits a pod; and where it does not, settings with which it was seen to fit, found by compiling them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from clip_jax.experiment import TrainConfig
from clip_jax.models.vit import VisionConfig
from clip_jax.plan.child import compiled_for
from clip_jax.plan.chips import Pod
from clip_jax.plan.compiled import Compiled
from clip_jax.plan.times import Times, times
from clip_jax.teachers import Offer

# The share of a GPU's memory that a run can have (XLA_PYTHON_CLIENT_MEM_FRACTION; 0.75 unless it is set). What a TPU's
# runtime keeps to itself, its compiler knows.
GPU_SHARE = 0.9

Compile = Callable[[TrainConfig, Mapping[str, Offer], Pod], Compiled]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """settings: flags that differ from the config that was asked about. times: None where the compiler refused."""

    settings: tuple[str, ...]
    config: TrainConfig
    compiled: Compiled
    times: Times | None
    fits: bool


def tried(
    config: TrainConfig, offers: Mapping[str, Offer], pod: Pod, compile_: Compile = compiled_for, *, search: bool = True
) -> Iterator[Trial]:
    """The config itself; and while it does not fit, each with one setting more that needs less memory, up to the first that
    does. A setting that the config refuses is left out.

    Raises ValueError for what in the config itself cannot work.
    """
    last = _trial(config, offers, pod, compile_, {})
    yield last
    values: dict[str, Any] = {}
    for saving in SAVINGS if search and not last.fits else ():
        while changed := saving(last.config, last.compiled):
            try:
                last = _trial(_with(last.config, changed), offers, pod, compile_, values | changed)
            except ValueError:
                break
            values |= changed
            yield last
            if last.fits:
                return


def _trial(
    config: TrainConfig, offers: Mapping[str, Offer], pod: Pod, compile_: Compile, values: Mapping[str, Any]
) -> Trial:
    compiled = compile_(config, offers, pod)
    return Trial(
        settings=tuple(f"--config.{path}={value}" for path, value in values.items()),
        config=config,
        compiled=compiled,
        times=None if compiled.needed else times(compiled, config, pod),
        fits=not compiled.needed and compiled.total <= memory_of(pod, compiled.devices),
    )


def memory_of(pod: Pod, devices: int) -> float:
    """Bytes a device can have."""
    return pod.chip.memory * pod.size / devices * (1 if pod.is_tpu else GPU_SHARE)


Changed = dict[str, Any]  # path in the config -> value


def _ring(config: TrainConfig, compiled: Compiled) -> Changed:
    return {} if config.objective.form == "ring" else {"objective.form": "ring"}


def _recomputed(config: TrainConfig, compiled: Compiled) -> Changed:
    steps = ("none", "dots", "block", "block")
    now = config.model.running.remat
    after = steps[steps.index(now) + 1]
    return {} if after == now else {"model.running.remat": after}


def _cut(config: TrainConfig, compiled: Compiled) -> Changed:
    """Parameters over twice as many devices, up to all along data."""
    data, fsdp = compiled.mesh["data"], compiled.mesh["fsdp"]
    if data % 2:
        return {}
    return {"mesh.fsdp": 2 * fsdp} | ({} if config.mesh.data == -1 else {"mesh.data": data // 2})


def _accumulated(config: TrainConfig, compiled: Compiled) -> Changed:
    more = 2 * config.accumulate
    return {"accumulate": more} if more <= 16 and _rows(config, compiled) % more == 0 else {}


def _model(config: TrainConfig, compiled: Compiled) -> Changed:
    """Towers over 2, 4, 8 devices, where each has the heads for it; taken from data, or where that is 1, from fsdp."""
    more, vision = 2 * compiled.mesh["model"], config.model.vision_cfg
    if not isinstance(vision, VisionConfig) or more > 8:
        return {}
    given = "data" if compiled.mesh["data"] > 1 else "fsdp"
    heads = (vision.width // vision.head_width, config.model.text_cfg.heads)
    if any(number % more for number in heads) or compiled.mesh[given] % 2:
        return {}
    return {"mesh.model": more} | (
        {} if getattr(config.mesh, given) == -1 else {f"mesh.{given}": compiled.mesh[given] // 2}
    )


def _smaller(config: TrainConfig, compiled: Compiled) -> Changed:
    divides = _rows(config, compiled) % (2 * config.accumulate) == 0
    return {"batch_size": config.batch_size // 2} if divides else {}


# From what costs least: the loss in a ring, recomputation, cut parameters, accumulation, cut towers, a smaller batch. Each is
# asked again, with what was compiled last, until it has nothing more to change.
SAVINGS: tuple[Callable[[TrainConfig, Compiled], Changed], ...] = (
    *(_ring, _recomputed, _cut),
    *(_accumulated, _model, _smaller),
)


def _rows(config: TrainConfig, compiled: Compiled) -> int:
    return config.batch_size * compiled.mesh["model"] // compiled.devices


def _with(config: TrainConfig, changed: Changed) -> TrainConfig:
    for path, value in changed.items():
        config = _replaced(config, path.split("."), value)
    return config


def _replaced(config: Any, path: list[str], value: Any) -> Any:
    inner = _replaced(getattr(config, path[0]), path[1:], value) if len(path) > 1 else value
    return dataclasses.replace(config, **{path[0]: inner})
