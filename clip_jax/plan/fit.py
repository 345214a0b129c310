"""Whether a config fits a pod; and where it does not, settings with which it was seen to fit, found by compiling them."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from clip_jax.experiment import TrainConfig
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
    does. Raises ValueError for what in the config cannot work."""
    trial = _trial(config, offers, pod, compile_, ())
    yield trial
    settings: tuple[str, ...] = ()
    for flag, changed in savings(config, trial.compiled) if search and not trial.fits else ():
        settings = (*(one for one in settings if one.split("=")[0] != flag.split("=")[0]), flag)
        trial = _trial(changed, offers, pod, compile_, settings)
        yield trial
        if trial.fits:
            return


def _trial(
    config: TrainConfig, offers: Mapping[str, Offer], pod: Pod, compile_: Compile, settings: tuple[str, ...]
) -> Trial:
    compiled = compile_(config, offers, pod)
    return Trial(
        settings=settings,
        config=config,
        compiled=compiled,
        times=None if compiled.needed else times(compiled, config, pod),
        fits=not compiled.needed and compiled.total <= memory_of(pod, compiled.devices),
    )


def memory_of(pod: Pod, devices: int) -> float:
    """Bytes a device can have."""
    return pod.chip.memory * pod.size / devices * (1 if pod.is_tpu else GPU_SHARE)


def savings(config: TrainConfig, compiled: Compiled) -> Iterator[tuple[str, TrainConfig]]:
    """(flag, the config with it and all before it), from what costs least: the ring loss, recomputation, cut parameters,
    accumulation, a smaller batch. What the config already has is left out."""
    if config.objective.form != "ring":
        config = _with(config, ("objective", "form"), "ring")
        yield "--config.objective.form=ring", config
    steps = ("none", "dots", "block")
    for remat in steps[steps.index(config.model.running.remat) + 1 :]:
        config = _with(config, ("model", "running", "remat"), remat)
        yield f"--config.model.running.remat={remat}", config
    if config.mesh.fsdp == 1 and config.mesh.data == -1:
        cut = math.gcd(compiled.mesh["data"], 16)
        if cut > 1:
            config = _with(config, ("mesh", "fsdp"), cut)
            yield f"--config.mesh.fsdp={cut}", config
    parts = compiled.devices // compiled.mesh.get("model", 1)
    while config.batch_size % (2 * parts * config.accumulate) == 0 and config.accumulate < 16:
        config = _with(config, ("accumulate",), 2 * config.accumulate)
        yield f"--config.accumulate={config.accumulate}", config
    while config.batch_size % (2 * parts * config.accumulate) == 0:
        config = _with(config, ("batch_size",), config.batch_size // 2)
        yield f"--config.batch_size={config.batch_size}", config


def _with(config: Any, path: tuple[str, ...], value: Any) -> Any:
    inner = value if len(path) == 1 else _with(getattr(config, path[0]), path[1:], value)
    return dataclasses.replace(config, **{path[0]: inner})
