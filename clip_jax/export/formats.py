"""The formats as a table: what writes one, what opens it, and what both need."""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from clip_jax.export import coreml, coreml_file, litert, onnx, program, safetensors
from clip_jax.export.graph import Tower, Wanted
from clip_jax.export.runner import Runner
from clip_jax.interop.packing import Precision
from clip_jax.models.size import size

_MOST = 2**31 - 2**24  # bytes of a protocol or flat buffer, and some for its graph


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A row. flexible: whether a file can take batches of any size. whole: the name of a file that always holds both towers,
    "" where each tower may have its own. needs: modules of the `export` extra. limited: a file holds no more than 2 GB, and
    "by f32" where all precisions are made of a file in f32."""

    write: Callable[[Wanted, Path], None]
    open_file: Callable[[Path, Wanted], Runner]
    suffix: str
    flexible: bool = True
    whole: str = ""
    needs: tuple[str, ...] = ()
    limited: Literal["", "by f32", "by its own"] = ""

    def name(self, tower: Tower) -> str:
        """Of the file of a tower."""
        return (self.whole or tower) + self.suffix

    def check_room(self, path: Path, wanted: Wanted) -> None:
        """Raises ValueError where the file would be larger than the format allows."""
        counted = size(wanted.config)
        numbers = {"image": counted.image, "text": counted.text, "joint": counted.parameters}[wanted.tower]
        precision: Precision = "f32" if self.limited == "by f32" else wanted.precision
        length = numbers * {"f32": 4, "f16": 2, "int8": 1}[precision]
        if self.limited and length > _MOST:
            unlimited = [name for name, one in FORMATS.items() if not one.limited]
            raise ValueError(
                f"{path} would take {length / 1e9:.1f} GB in {precision}, and the format ends at {_MOST / 1e9:.1f}: "
                f"give --towers image,text or another format, such as {' or '.join(unlimited)}"
            )


FORMATS = {
    "onnx": Format(
        write=onnx.write,
        open_file=onnx.open_file,
        suffix=".onnx",
        needs=("jax2onnx", "onnx", "onnxruntime"),
        limited="by f32",
    ),
    "coreml": Format(
        write=coreml.write,
        open_file=coreml_file.open_file,
        suffix=".mlpackage",
        flexible=False,
        needs=("coremltools", "stablehlo_coreml"),
    ),
    "litert": Format(
        write=litert.write,
        open_file=litert.open_file,
        suffix=".tflite",
        flexible=False,
        needs=("litert_converter", "ai_edge_quantizer", "ai_edge_litert"),
        limited="by f32",
    ),
    "safetensors": Format(
        write=safetensors.write,
        open_file=safetensors.open_file,
        suffix=".safetensors",
        whole="model",
    ),
    "jax": Format(write=program.write, open_file=program.open_file, suffix=".jax", limited="by its own"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A format in a precision, which has a folder of its own."""

    format: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.format}-{self.precision}"


def check_installed(formats: Iterable[str]) -> None:
    """Raises ModuleNotFoundError that names what is missing for the formats, and how it is installed."""
    needed = sorted({module for name in formats for module in FORMATS[name].needs})
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; pip install 'clip_jax[export]'. "
            f"{' and '.join(name for name, one in FORMATS.items() if not one.needs)} need nothing more"
        )
