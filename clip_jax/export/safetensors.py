"""safetensors: the whole model by clip_jax's own names, in fewer bits; `clip_jax.load` opens the folder."""

from pathlib import Path

import jax
import numpy as np

from clip_jax import tree
from clip_jax.export.graph import Wanted, graph
from clip_jax.export.runner import Runner
from clip_jax.interop import folder
from clip_jax.interop.files import tensors
from clip_jax.interop.packing import flattened, packed, restored


def write(wanted: Wanted, path: Path) -> None:
    """With clip_jax.json and the tokenizer beside it. int8 arrays have their scales beside them, f32 NAME_scale, by output."""
    parts = {
        name: packed(name, np.asarray(leaf, np.float32), wanted.precision)
        for name, leaf in tree.leaves_by_path(wanted.params).items()
    }
    folder.write_settings(path.parent, wanted.config, layout="clip_jax", origin=wanted.origin)
    tensors.write(path, flattened(parts), {})


def open_file(path: Path, wanted: Wanted) -> Runner:
    """By clip_jax, in f32."""
    config, _, _ = folder.read_settings(path.parent)
    made = graph(config, tree.nested(restored(tensors.read(path).state)), wanted.tower, preprocess=wanted.preprocess)
    call = jax.jit(made.function)

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = jax.device_get(call(*(inputs[name] for name in made.inputs)))
        return dict(zip(made.outputs, found, strict=True))

    return Runner(run=run, by=f"clip_jax, jax {jax.__version__}")
