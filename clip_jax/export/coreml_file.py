"""What a Core ML file is and holds: run by the system on macOS, elsewhere read back, and its weights run in our towers."""

import importlib
import itertools
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from clip_jax import tree
from clip_jax.export.graph import Graph, Wanted, graph
from clip_jax.export.half import in_half
from clip_jax.export.runner import Runner, quiet
from clip_jax.interop.packing import Precision, is_matrix
from clip_jax.interop.proof.gate import NotProven

_PROBED = "head/qkv/kernel"  # of SigLIP's attention pooling
_SAMPLE = 97  # numbers of an array that are compared before all of them are


def open_file(path: Path, wanted: Wanted) -> Runner:
    """On macOS by Core ML. Elsewhere the file is read back: its inputs and outputs, that all its constants are finite, and its
    matrices, which must be ours but for the precision's rounding; and our towers run with those matrices, each operation's
    result rounded as the file's precision rounds it. Raises NotProven where the file is not what it should be."""
    made, here = wanted.graph(), platform.system() == "Darwin"
    with quiet():
        tools: Any = importlib.import_module("coremltools")
        model = tools.models.MLModel(str(path), skip_model_load=not here)
        spec = model.get_spec()
        stored = list(_constants(spec, model.weights_dir))
    found = tuple([one.name for one in side] for side in (spec.description.input, spec.description.output))
    expected = (list(made.inputs), list(made.outputs))
    if found != expected:
        raise NotProven(f"its inputs and outputs are {found}; expected {expected}")
    for name, array in stored:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NotProven(f"its constant {name} holds NaN or infinity")
    matrices = _matrices(made, [array for _, array in stored], wanted.precision)
    if here:
        return Runner(run=_by_the_system(model, made, wanted), by=f"Core ML, macOS {platform.mac_ver()[0]}")
    params = tree.nested({**tree.leaves_by_path(wanted.params), **made.weights, **matrices})
    function = graph(wanted.config, params, wanted.tower, preprocess=wanted.preprocess).function
    half = wanted.precision != "f32"
    compiled = jax.jit(in_half(function) if half else function)

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = jax.device_get(compiled(*(inputs[name] for name in made.inputs)))
        return dict(zip(made.outputs, outputs, strict=True))

    return Runner(run=run, by=f"clip_jax with the file's weights, in {'f16' if half else 'f32'}", real=False)


def _by_the_system(model: Any, made: Graph, wanted: Wanted) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given: dict[str, Any] = dict(inputs)
        if wanted.preprocess and "pixels" in given:
            given["pixels"] = Image.fromarray(inputs["pixels"][0])
        found = model.predict(given)
        return {name: np.asarray(found[name], np.float32) for name in made.outputs}

    return run


def _constants(spec: Any, weights: str) -> Iterator[tuple[str, np.ndarray]]:
    """The program's arrays by name, unpacked."""
    load: Any = importlib.import_module("coremltools.converters.mil.frontend.milproto.load").load
    for operation in load(spec, spec.specificationVersion, weights).functions["main"].operations:
        value = None
        if operation.op_type == "const":
            value = operation.outputs[0].val
        elif operation.op_type.startswith("constexpr"):
            value = operation.materialized_val_inference()
        if isinstance(value, np.ndarray):
            yield operation.outputs[0].name, value


def _matrices(made: Graph, stored: Sequence[np.ndarray], precision: Precision) -> dict[str, np.ndarray]:
    """Our matrices, f32 by path, each as it lies in the file. Raises NotProven for one that does not, or not as it was."""
    found = {}
    for path, array in made.weights.items():
        if is_matrix(path, array.shape):
            pieces = list(array) if array.ndim == 3 else [array]  # of stacked layers, one each
            near = [_read(path, piece, stored, precision) for piece in pieces]
            found[path] = np.stack(near) if array.ndim == 3 else near[0]
    return found


def _read(path: str, ours: np.ndarray, stored: Sequence[np.ndarray], precision: Precision) -> np.ndarray:
    if path.endswith(_PROBED):  # its first third has become one query, for the probe is known when the file is written
        query, rest = np.split(ours, [ours.shape[1] // 3], axis=1)
        return np.concatenate([query, _checked(path, rest, _nearest(rest, stored), precision)], axis=1)
    return _checked(path, ours, _nearest(ours, stored), precision)


def _nearest(array: np.ndarray, stored: Sequence[np.ndarray]) -> np.ndarray | None:
    """Of the stored arrays that are of its shape when their axes are put in some order, those of size 1 left out, the one most
    like it, f32."""
    best, least = None, np.inf
    ours = array.squeeze()
    step = max(1, array.size // _SAMPLE)
    for one in stored:
        plain = one.squeeze()
        if one.dtype.kind != "f" or sorted(plain.shape) != sorted(ours.shape):
            continue
        for axes in itertools.permutations(range(ours.ndim)):
            turned = plain.transpose(axes)
            if turned.shape == ours.shape:
                far = float(np.abs(turned.flat[::step] - ours.flat[::step]).max())
                best, least = (turned, far) if far < least else (best, least)
    return None if best is None else np.asarray(best, np.float32).reshape(array.shape)


def _checked(path: str, ours: np.ndarray, stored: np.ndarray | None, precision: Precision) -> np.ndarray:
    """`stored`, where it is ours but for rounding."""
    if stored is None:
        raise NotProven(f"it does not hold {path} {ours.shape}")
    far, largest = float(np.abs(stored - ours).max()), float(np.abs(ours).max())
    # f16 keeps 11 bits, and int8 rounds to 127 steps of the largest of its row or column, with its scale in f16.
    allowed = largest * {"f32": 1e-6, "f16": 2.0**-11, "int8": 0.51 / 127 + 2.0**-10}[precision] + 2.0**-24
    if not far <= allowed:
        raise NotProven(f"{path} differs from ours by {far:.2g} in the file; at most {allowed:.2g} is rounding")
    return stored
