"""LiteRT (.tflite): StableHLO through litert-converter, fewer bits by ai-edge-quantizer, run by ai-edge-litert."""

import importlib
import io
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clip_jax.export.graph import Wanted
from clip_jax.export.runner import Runner, quiet


def write(wanted: Wanted, path: Path) -> None:
    """f16: weights are stored so, and computed with in f32, or in f16 where a device's delegate does. int8: weights, by
    output; their inputs are quantized as they come. Embedding tables are unpacked by rows."""
    graph = wanted.graph(tables=wanted.precision)
    lowered = jax.jit(graph.function).trace(*graph.abstract(wanted.batch)).lower(lowering_platforms=("cpu",))
    program = io.BytesIO()
    stable: Any = lowered.compiler_ir("stablehlo")
    stable.operation.write_bytecode(program)
    with quiet():
        converter: Any = importlib.import_module("litert_converter.converter_api_ext")
        mlir: Any = importlib.import_module("litert_converter.mlir.ir")
        passes: Any = importlib.import_module("litert_converter.mlir.passmanager")
        context = mlir.Context()
        converter.prepare_mlir_context(context)
        with context:
            module = mlir.Module.parse(program.getvalue())
            converter.set_signature(
                module.operation,
                signature_name="serving_default",
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
            )
            converter.run_convert_to_tfl_passes(module, passes.PassManager(), converter.ConvertToTFLConfig())
            whole = converter.export_flatbuffer_to_bytes(module.operation)
        path.write_bytes(whole)
        if wanted.precision != "f32":
            _fewer_bits(path, wanted.precision)


def _fewer_bits(path: Path, precision: str) -> None:
    """In place."""
    quantizer: Any = importlib.import_module("ai_edge_quantizer.quantizer").Quantizer(str(path))
    types: Any = importlib.import_module("ai_edge_quantizer.qtyping")
    if precision == "int8":
        quantizer.load_quantization_recipe(importlib.import_module("ai_edge_quantizer.recipe").dynamic_wi8_afp32())
        quantizer.update_quantization_recipe(  # the runtime refuses an int8 constant on their left, such as MAP's one query
            regex=".*", operation_name=types.TFLOperationName.BATCH_MATMUL, algorithm_key="no_quantize"
        )
    else:
        quantizer.update_quantization_recipe(
            regex=".*",
            operation_name=types.TFLOperationName.ALL_SUPPORTED,
            op_config=types.OpQuantizationConfig(
                weight_tensor_config=types.TensorQuantizationConfig(num_bits=16, dtype=types.TensorDataType.FLOAT),
                compute_precision=types.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            ),
            algorithm_key="float_casting",
        )
    quantizer.quantize().export_model(str(path), overwrite=True)


def open_file(path: Path, wanted: Wanted) -> Runner:
    """By LiteRT's interpreter, on all cores of the CPU."""
    with quiet():
        runtime: Any = importlib.import_module("ai_edge_litert.interpreter")
        interpreter = runtime.Interpreter(model_path=str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
        signature = interpreter.get_signature_runner()

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.array(output) for name, output in signature(**inputs).items()}

    version = importlib.import_module("ai_edge_litert").__version__
    return Runner(run=run, by=f"LiteRT {version}")
