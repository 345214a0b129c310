"""Core ML (.mlpackage): StableHLO through stablehlo-coreml and coremltools."""

import importlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clip_jax.export.graph import Graph, Wanted, graph
from clip_jax.export.runner import quiet
from clip_jax.models.clip import normalize_pixels

# What computes with matrices; int8 is for their weights alone: an attention mask in 8 bits times an f16 scale is NaN.
_PRODUCTS = ("linear", "matmul", "conv", "gather", "gather_nd")


def write(wanted: Wanted, path: Path) -> None:
    """f16: weights and all operations. int8: the matrices' weights, by output; operations in f16. With `preprocess` the pixels
    are a Core ML image (RGB), which Vision can cut and scale, else an array f32[B, S, S, 3]. For iOS 18, macOS 15 and newer."""
    made = wanted.graph()
    with quiet():
        tools: Any = importlib.import_module("coremltools")
        bridge: Any = importlib.import_module("stablehlo_coreml")
        convert: Any = importlib.import_module("stablehlo_coreml.converter").convert
        function, inputs = _called(wanted, made)
        module = jax.jit(function).trace(*inputs.values()).lower(lowering_platforms=("cpu",)).compiler_ir("stablehlo")
        target = tools.target.iOS18
        program = convert(module, minimum_deployment_target=target)
        declared = [
            tools.ImageType(name=name, shape=x.shape, color_layout=tools.colorlayout.RGB)
            if name == "pixels" and wanted.preprocess
            else tools.TensorType(name=name, shape=x.shape, dtype=x.dtype.type)
            for name, x in inputs.items()
        ]
        precision = tools.precision.FLOAT32 if wanted.precision == "f32" else tools.precision.FLOAT16
        model = tools.convert(
            program,
            source="milinternal",
            minimum_deployment_target=target,
            pass_pipeline=bridge.build_pass_pipeline(),
            compute_precision=precision,
            skip_model_load=True,
            inputs=declared,
        )
        spec = model.get_spec()
        for one, new in zip(list(spec.description.output), made.outputs, strict=True):
            tools.utils.rename_feature(spec, one.name, new)
        model = tools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)
        if wanted.precision == "int8":
            model = _in_eight_bits(model)
        model.save(str(path))


def _called(wanted: Wanted, made: Graph) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """The graph by its inputs' names, and these; Core ML gives images as f32[B, 3, S, S] in 0 to 255."""
    inputs = dict(zip(made.inputs, made.abstract(wanted.batch), strict=True))
    plain, pictures = made, wanted.preprocess and "pixels" in inputs
    if pictures:
        plain = graph(wanted.config, wanted.params, wanted.tower, preprocess=False)
        batch, rows, columns, channels = inputs["pixels"].shape
        inputs["pixels"] = jax.ShapeDtypeStruct((batch, channels, rows, columns), np.float32)

    def images(pixels: jax.Array) -> jax.Array:
        return normalize_pixels(pixels.transpose(0, 2, 3, 1), wanted.config.preprocess_cfg) if pictures else pixels

    functions = {  # Core ML's names are those of a function's arguments
        "image": lambda pixels: plain.function(images(pixels)),
        "text": lambda tokens: plain.function(tokens),
        "joint": lambda pixels, tokens: plain.function(images(pixels), tokens),
    }
    return functions[wanted.tower], inputs


def _in_eight_bits(model: Any) -> Any:
    tools: Any = importlib.import_module("coremltools.optimize.coreml")
    each = tools.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=512
    )
    config = tools.OptimizationConfig(op_type_configs=dict.fromkeys(_PRODUCTS, each))
    return tools.linear_quantize_weights(model, config=config)
