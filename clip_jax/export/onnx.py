"""ONNX: converted by jax2onnx, halved and quantized by onnxruntime's tools, run by onnxruntime."""

import importlib
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clip_jax.export.graph import Wanted
from clip_jax.export.runner import Runner, quiet

_BATCH = "B"  # the name of the dimension


def write(wanted: Wanted, path: Path) -> None:
    """f16: weights and all operations but those that onnxruntime keeps in f32. int8: weights, by output; their inputs are
    quantized as they come. Inputs and outputs are of the types of `Graph` always."""
    graph = wanted.graph()
    with quiet():
        convert: Any = importlib.import_module("jax2onnx").to_onnx
        onnx: Any = importlib.import_module("onnx")
        jax.make_jaxpr(graph.function)(
            *graph.abstract(1)
        )  # the towers are built before jax2onnx patches what builds them
        model = convert(
            graph.function,
            inputs=graph.abstract(_BATCH),
            model_name=graph.name,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
        )
        _products(model, onnx)
        if wanted.batch is not None:
            _fix_batch(model, wanted.batch)
        if wanted.precision == "f16":
            half: Any = importlib.import_module("onnxruntime.transformers.float16")
            model = half.convert_float_to_float16(model, keep_io_types=True)
        if wanted.precision != "int8":
            onnx.save(model, path)
            return
        tools: Any = importlib.import_module("onnxruntime.quantization")
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole.onnx"
            onnx.save(model, whole)
            tools.quantize_dynamic(whole, path, per_channel=True, weight_type=tools.QuantType.QInt8)


def open_file(path: Path, wanted: Wanted) -> Runner:
    """By onnxruntime, on the CPU."""
    with quiet():
        runtime: Any = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, inputs), strict=True))

    return Runner(run=run, by=f"onnxruntime {runtime.__version__}")


def _fix_batch(model: Any, batch: int) -> None:
    """Afterwards: where the converter is told a batch, it stores each bias as often as it is added."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == _BATCH:
                dimension.dim_value = batch


def _products(model: Any, onnx: Any) -> None:
    """Gemm without a bias becomes MatMul, which is what onnxruntime quantizes; what nothing takes any more is left out."""
    for node in model.graph.node:
        factors = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        plain = not factors.get("transA") and not factors.get("transB") and factors.get("alpha", 1.0) == 1.0
        if node.op_type == "Gemm" and plain and (len(node.input) < 3 or factors.get("beta", 1.0) == 0.0):
            node.op_type = "MatMul"
            del node.input[2:], node.attribute[:]
    used = {name for node in model.graph.node for name in node.input}
    for one in [one for one in model.graph.initializer if one.name not in used]:
        model.graph.initializer.remove(one)
