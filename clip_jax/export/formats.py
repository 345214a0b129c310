"""The formats as a table: what writes one, what opens it, and what both need."""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path

from clip_jax.export import coreml, coreml_file, litert, onnx, program, safetensors
from clip_jax.export.graph import Tower, Wanted
from clip_jax.export.runner import Runner
from clip_jax.interop.packing import Precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A row. flexible: whether a file can take batches of any size. whole: the name of a file that always holds both towers,
    "" where each tower may have its own. needs: modules of the `export` extra."""

    write: Callable[[Wanted, Path], None]
    open_file: Callable[[Path, Wanted], Runner]
    suffix: str
    flexible: bool = True
    whole: str = ""
    needs: tuple[str, ...] = ()

    def name(self, tower: Tower) -> str:
        """Of the file of a tower."""
        return (self.whole or tower) + self.suffix


FORMATS = {
    "onnx": Format(
        write=onnx.write,
        open_file=onnx.open_file,
        suffix=".onnx",
        needs=("jax2onnx", "onnx", "onnxruntime"),
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
    ),
    "safetensors": Format(
        write=safetensors.write,
        open_file=safetensors.open_file,
        suffix=".safetensors",
        whole="model",
    ),
    "jax": Format(write=program.write, open_file=program.open_file, suffix=".jax"),
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
