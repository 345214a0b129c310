"""JAX's own: a serialised StableHLO program with its weights, for jax.export.deserialize on CPU, GPU and TPU."""

from pathlib import Path

import jax
import numpy as np
from jax import export

from clip_jax.export.graph import Wanted
from clip_jax.export.runner import Runner

PLATFORMS = ("cpu", "cuda", "tpu")


def write(wanted: Wanted, path: Path) -> None:
    """Weights are stored in the precision that is asked for, and computed with in f32."""
    graph = wanted.graph(stored=wanted.precision)
    batch = wanted.batch if wanted.batch is not None else export.symbolic_shape("b")[0]
    exported = export.export(jax.jit(graph.function), platforms=PLATFORMS)(*graph.abstract(batch))
    path.write_bytes(exported.serialize())


def open_file(path: Path, wanted: Wanted) -> Runner:
    """On this machine's device."""
    graph = wanted.graph()
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = jax.device_get(call(*(inputs[name] for name in graph.inputs)))
        return dict(zip(graph.outputs, found, strict=True))

    return Runner(run=run, by=f"jax {jax.__version__}")
