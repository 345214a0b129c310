"""Compiles in a process of its own, so that what the compilers want in the environment reaches nobody else."""

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clip_jax.experiment import TrainConfig
from clip_jax.models.clip import CLIPConfig
from clip_jax.plain import from_dict, to_dict
from clip_jax.plan.chips import Pod, nearest_shapes, parse_pod
from clip_jax.plan.collectives import Collective
from clip_jax.plan.compiled import Compiled, compile_step
from clip_jax.teachers import Offer

MOST_ON_CPU = 1024  # virtual devices of one process

# What libtpu asks for where there is no TPU.
_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def compiled_for(
    config: TrainConfig,
    offers: Mapping[str, Offer],
    pod: Pod,
    waiting: Callable[[float], None] = lambda seconds: None,
    live: Mapping[str, CLIPConfig] | None = None,
) -> Compiled:
    """The step compiled for a pod. waiting: told about once a second how many seconds it has taken. live: models of live
    teachers, by name.

    Raises ValueError for what in the config or the pod cannot work, ModuleNotFoundError without libtpu where it is
    needed, RuntimeError with the compiler's last words.
    """
    check_possible(pod)
    with tempfile.TemporaryDirectory(prefix="clip_jax_plan_") as folder:
        asked, answer, said = (Path(folder) / name for name in ("asked.json", "answer.json", "said"))
        offered = {name: dataclasses.asdict(offer) for name, offer in offers.items()}
        models = {name: to_dict(model) for name, model in (live or {}).items()}
        asked.write_text(json.dumps({"config": to_dict(config), "offers": offered, "pod": str(pod), "live": models}))
        command = [sys.executable, "-m", "clip_jax.plan.child", str(asked), str(answer)]
        began = time.monotonic()
        with said.open("wb") as log:
            process = subprocess.Popen(command, env=environment(pod), stdout=log, stderr=log)
            try:
                while process.poll() is None:
                    waiting(time.monotonic() - began)
                    time.sleep(min(1.0, 0.1 + (time.monotonic() - began) / 10))
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if not answer.exists():
            raise RuntimeError(f"compiling for {pod} ended with {process.returncode}:\n{said.read_text()[-3000:]}")
        found = json.loads(answer.read_text())
    if "error" in found:
        raise ValueError(found["error"])
    return read_compiled(found)


def check_possible(pod: Pod) -> None:
    """Raises where the compiler is not installed, or the pod is too large for it."""
    if pod.is_tpu and importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            f'{pod} is compiled for by libtpu, which is not installed: pip install "clip_jax[plan]" (no TPU is needed)'
        )
    if not pod.is_tpu and pod.size > MOST_ON_CPU:
        raise ValueError(
            f"{pod}: the program for GPUs is compiled for virtual CPU devices, of which one process holds {MOST_ON_CPU}; "
            f"plan for {pod.name}:{MOST_ON_CPU} with the same batch a GPU"
        )


def read_compiled(found: Mapping[str, Any]) -> Compiled:
    """What dataclasses.asdict wrote, after JSON."""
    each = tuple(Collective(**{k: _tuple(v) for k, v in one.items()}) for one in found["collectives"])
    return Compiled(**{**found, "collectives": each})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def environment(pod: Pod) -> dict[str, str]:
    """JAX's own backend is CPU throughout; what is compiled for a TPU is compiled for its description."""
    count = 1 if pod.is_tpu else pod.size
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return os.environ | settings | (_LIBTPU if pod.is_tpu else {})


def topology_options(pod: Pod) -> dict[str, Any]:
    """What libtpu must be told of a slice beyond its name."""
    options: dict[str, Any] = {}
    if pod.name == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as on a real v4; by itself libtpu describes two
    if pod.size == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # else a host has 2 x 2
    return options


def _devices(pod: Pod) -> tuple[list[Any], list[tuple[int, ...]], tuple[int, ...]]:
    """Devices to compile for, their places in the slice or (in a node, of which node), and the lengths of rings."""
    jax = importlib.import_module("jax")
    if not pod.is_tpu:
        node = min(pod.chip.node, pod.size)
        return jax.devices(), [(i % node, i // node) for i in range(pod.size)], ()
    topologies = importlib.import_module("jax.experimental.topologies")
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=str(pod), **topology_options(pod))
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--topology {pod}: libtpu knows no such slice ({reason}); try {nearest_shapes(pod)}"
        ) from error
    rings = tuple(length if closes else 0 for length, closes in zip(pod.shape, pod.rings, strict=True))
    return list(described.devices), [tuple(device.coords) for device in described.devices], rings


def main() -> None:
    """In the child: asked.json -> answer.json."""
    asked, answer = Path(sys.argv[1]), Path(sys.argv[2])
    given = json.loads(asked.read_text())
    try:
        config = from_dict(TrainConfig, given["config"])
        offers = {name: Offer(**offer) for name, offer in given["offers"].items()}
        live = {name: from_dict(CLIPConfig, model) for name, model in given["live"].items()}
        found = dataclasses.asdict(compile_step(config, offers, *_devices(parse_pod(given["pod"])), live))
    except ValueError as error:
        found = {"error": str(error)}
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
