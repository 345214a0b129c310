"""README.md of a folder of exports: what lies there, how far each file is from the model it was made of, how it is run."""

from collections.abc import Iterable

from clip_jax.export.graph import Tower
from clip_jax.export.measure import COSINES, TOP
from clip_jax.export.record import Exported, Record
from clip_jax.interop.card_tables import architecture, cell, preparation, table
from clip_jax.models.clip import CLIPConfig


def card(name: str, config: CLIPConfig, record: Record) -> str:
    """Markdown, for a folder called `name`."""
    made = ", ".join(f"{package} {version}" for package, version in record.made_with.items())
    sections = (
        ("Files", _files(record)),
        ("Architecture", architecture(config, None, None)),
        ("Input", f"{preparation(config)}\n\n{_arrays(config, record.files)}"),
        ("How to run them", _running(record)),
        ("Made with", cell(made)),
    )
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in sections)
    return f"# {cell(name)}\n\nExported by clip_jax from {cell(record.source)}.\n\n{text}\n"


def measured_rows(record: Record) -> list[tuple[str, ...]]:
    """The files' figures as HEAD names them."""
    return [
        (
            file.path,
            f"{file.bytes / 1e6:.2f}",
            f"{file.parameters:,}",
            "" if file.p50 is None else f"{file.p50:.1f}",
            "" if file.p95 is None else f"{file.p95:.1f}",
            f"{file.largest:.1e}",
            f"{file.mean:.1e}",
            f"{file.cosine:.6f}",
            f"{100 * file.overlap:.1f}",
        )
        for file in record.files
    ]


HEAD = (
    "file",
    "MB",
    "parameters",
    "p50 ms",
    "p95 ms",
    "largest difference",
    "mean difference",
    "smallest cosine",
    f"overlap@{TOP} %",
)


def explained(record: Record) -> str:
    """What the figures mean, in a paragraph."""
    limits = ", ".join(f"{cosine:g} in {precision}" for precision, cosine in COSINES.items())
    chance = min(1.0, TOP / record.samples)
    said = (
        f"Each file gave embeddings of the same {record.samples} images and captions as the model in f32. Differences are those "
        f"of an element of an embedding of length 1; cosines are those of both embeddings of one input, and below {limits} a "
        f"file is not handed out. Overlap@{TOP}: the share of the first {TOP} images of each caption that are the model's own; a "
        f"tower is paired with the model's other one, and chance would give {chance:.0%}. Milliseconds are those of one call "
        f"with one input of each kind, or as many as a fixed batch takes, on all cores of the machine that exported "
        f"({record.machine})."
    )
    if unrun := sorted({file.by for file in record.files if file.p50 is None}):
        said += (
            " Core ML's files did not run themselves, which takes Apple's systems: all their weights were read back and compared "
            f"with the model's, and the embeddings computed from them by {'; '.join(unrun)}."
        )
    if any((file.format, file.precision) == ("onnx", "int8") for file in record.files):
        said += (
            " onnxruntime multiplies int8 exactly on ARM and on x86 with VNNI; older x86 processors saturate large sums, so "
            "check the embeddings there."
        )
    return said


def _files(record: Record) -> str:
    parts = [table(HEAD, measured_rows(record), right=1), explained(record)]
    if record.overlaps:
        rows = [(name, f"{100 * share:.1f}") for name, share in record.overlaps.items()]
        parts.append(f"Both towers of a kind together:\n\n{table(('', f'overlap@{TOP} %'), rows, right=1)}")
    return "\n\n".join(parts)


def _arrays(config: CLIPConfig, files: Iterable[Exported]) -> str:
    size, length = config.vision_cfg.image_size, config.text_cfg.context_length
    raw = {file.format for file in files if file.preprocess}
    pixels = "u8, RGB, 0 to 255: scaling and normalising are inside" if raw else "f32, RGB, normalised as above"
    if "coreml" in raw:
        pixels += (
            f" (Core ML takes a picture instead, RGB, {size}x{size}: a CVPixelBuffer, or Pillow's Image in Python)"
        )
    joint = " `logits`: f32 [batch, batch], images by texts." if any(file.tower == "joint" for file in files) else ""
    return (
        f"`pixels`: [batch, {size}, {size}, 3], {pixels}. `tokens`: i32 [batch, {length}]; the tokenizer lies beside, for "
        f"transformers' AutoTokenizer with padding to {length}. `image_embedding`, `text_embedding`: f32 "
        f"[batch, {config.embed_dim}], of length 1.{joint}"
    )


def _running(record: Record) -> str:
    parts = []
    for format_, (library, code) in SNIPPETS.items():
        file = next((one for one in record.files if one.format == format_), None)
        if file is not None:
            inputs, outputs = _CALLS[file.tower]
            marks = {
                "FILE": file.path,
                "FOLDER": file.path.split("/")[0],
                "FEED": ", ".join(f'"{name}": {name}' for name in inputs),
                "NAMED": ", ".join(f"{name}={name}" for name in inputs),
                "INPUTS": ", ".join(inputs),
                "FOUND": ", ".join(outputs) if outputs[1:] else f"({outputs[0]},)",
                "FIRST": outputs[0],
            }
            for mark, value in marks.items():
                code = code.replace(mark, value)
            parts.append(f"With {library}:\n\n```python\n{code}\n```")
    return "\n\n".join(parts)


_CALLS: dict[Tower, tuple[tuple[str, ...], tuple[str, ...]]] = {  # inputs and outputs of `Graph`
    "image": (("pixels",), ("image_embedding",)),
    "text": (("tokens",), ("text_embedding",)),
    "joint": (("pixels", "tokens"), ("image_embedding", "text_embedding", "logits")),
}

SNIPPETS = {
    "onnx": (
        "onnxruntime",
        """import onnxruntime

session = onnxruntime.InferenceSession("FILE")
FOUND = session.run(None, {FEED})""",
    ),
    "litert": (
        "LiteRT",
        """from ai_edge_litert.interpreter import Interpreter

run = Interpreter(model_path="FILE").get_signature_runner()
FIRST = run(NAMED)["FIRST"]""",
    ),
    "coreml": (
        "Core ML on macOS",
        """import coremltools

model = coremltools.models.MLModel("FILE")
FIRST = model.predict({FEED})["FIRST"]""",
    ),
    "jax": (
        "JAX",
        """from pathlib import Path

import jax.export

call = jax.export.deserialize(bytearray(Path("FILE").read_bytes())).call
FOUND = call(INPUTS)""",
    ),
    "safetensors": (
        "clip_jax",
        """import clip_jax

model = clip_jax.load("FOLDER")
image_embedding = model.encode_image(["photo.jpg"])""",
    ),
}
