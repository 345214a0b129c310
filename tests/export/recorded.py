"""A record of exports, with nothing exported."""

import dataclasses

from clip_jax.export.record import Exported, Record
from tests.export.models import CONFIGS

FILE = Exported(
    path="onnx-int8/image.onnx",
    format="onnx",
    precision="int8",
    tower="image",
    preprocess=False,
    batch=None,
    bytes=1_234_567,
    parameters=1_200_000,
    seconds=1.0,
    largest=4.2e-3,
    mean=5e-4,
    cosine=0.99912,
    overlap=0.971,
    p50=2.0,
    p95=3.5,
    by="onnxruntime 1.0",
)
OTHERS = (
    dataclasses.replace(
        FILE, path="coreml-int8/image.mlpackage", format="coreml", p50=None, p95=None, batch=1, bytes=617_283
    ),
    dataclasses.replace(FILE, path="onnx-int8/text.onnx", tower="text"),
)
RECORDED = Record(
    source="quickstart: a clip_jax run",
    model=CONFIGS["vit"],
    origin={},
    samples=200,
    files=(FILE, *OTHERS),
    overlaps={"onnx-int8": 0.9525},
    made_with={"jax": "0.10"},
    machine="2 cores, x86_64",
)
