"""What a Core ML file is and holds: run by the system on macOS, elsewhere read back, and its weights run in our towers."""

import importlib
import itertools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.vit import VisionConfig

_SAMPLE = 97  # numbers of an array that are compared before all of them are


def open_file(path: Path, wanted: Wanted) -> Runner:
    """On macOS by Core ML. Elsewhere the file is read back: its inputs and outputs, that all its constants are finite, and its
    weights, which must be ours but for the precision's rounding; and our towers run with those weights, each operation's
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
    weights = _weights(wanted, made, [_once(array, wanted.batch or 1) for _, array in stored])
    if here:
        return Runner(run=_by_the_system(model, made, wanted), by=f"Core ML, macOS {platform.mac_ver()[0]}")
    params = tree.nested({**tree.leaves_by_path(wanted.params), **weights})
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


def _once(array: np.ndarray, batch: int) -> np.ndarray:
    """What the converter has repeated for each sample of a batch, without its repetitions."""
    repeated = array.ndim > 1 and len(array) == batch and bool((array == array[:1]).all())
    return array[:1] if repeated else array


def _weights(wanted: Wanted, made: Graph, stored: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Our parameters, f32 by path, as they lie in the file. Raises NotProven for one that does not, or not as it was."""
    found = {}
    for path, array in _kept(wanted.config, made.weights).items():
        layers = path.split("/")[1].startswith("blocks")  # stacked
        precision = wanted.precision
        if precision == "int8" and not is_matrix(path, array.shape):
            precision = "f16"
        near = [_checked(path, one, _nearest(one, stored), precision) for one in (array if layers else [array])]
        found[path] = np.stack(near) if layers else near[0]
    return _restored(found, made.weights)


_CLASS, _POSITIONS = "visual/class_embedding", "visual/positional_embedding"
_PROBE, _KERNEL, _BIAS = "visual/head/probe", "visual/head/qkv/kernel", "visual/head/qkv/bias"


def _kept(config: CLIPConfig, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What of our parameters a file keeps: the converter has computed all that depends on no input. A class token has its
    position added; SigLIP's probe has become its query, by heads; of a ResNet's folded norms, biases are left."""
    kept = {
        path: array
        for path, array in weights.items()
        if not (path.endswith(("/mean", "/var")) or path.removesuffix("scale") + "var" in weights)
    }
    if _CLASS in kept:
        kept[_CLASS], kept[_POSITIONS] = kept[_CLASS] + kept[_POSITIONS][0], kept[_POSITIONS][1:]
    if _PROBE in kept:
        assert isinstance(config.vision_cfg, VisionConfig)
        query, kept[_KERNEL] = np.split(kept[_KERNEL], [kept[_PROBE].size], axis=1)
        shift, kept[_BIAS] = np.split(kept[_BIAS], [kept[_PROBE].size])
        kept[_PROBE] = (kept[_PROBE] @ query + shift).reshape(-1, config.vision_cfg.head_width)
    return kept


def _restored(found: dict[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The way back; what was computed of several parameters is given to one of them, beside ours for the others."""
    if _CLASS in found:
        first = weights[_POSITIONS][:1]
        found[_CLASS], found[_POSITIONS] = found[_CLASS] - first[0], np.concatenate([first, found[_POSITIONS]])
    if _PROBE in found:
        width = found[_PROBE].size
        shift = found[_PROBE].ravel() - weights[_PROBE] @ weights[_KERNEL][:, :width]
        found[_PROBE] = weights[_PROBE]
        found[_KERNEL] = np.concatenate([weights[_KERNEL][:, :width], found[_KERNEL]], axis=1)
        found[_BIAS] = np.concatenate([shift, found[_BIAS]])
    return {**weights, **found}


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
    """`stored`, where it is ours but for rounding. Zeros that are added and ones that multiply the converter has left out."""
    if not ours.any() or (ours == 1).all():
        return ours
    if stored is None:
        raise NotProven(f"it does not hold {path} {ours.shape}")
    far, largest = float(np.abs(stored - ours).max()), float(np.abs(ours).max())
    # f16 keeps 11 bits, and int8 rounds to 127 steps of the largest of its row or column, with its scale in f16.
    allowed = largest * {"f32": 1e-6, "f16": 2.0**-11, "int8": 0.51 / 127 + 2.0**-10}[precision] + 2.0**-24
    if not far <= allowed:
        raise NotProven(f"{path} differs from ours by {far:.2g} in the file; at most {allowed:.2g} is rounding")
    return stored
