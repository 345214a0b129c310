"""export.json: what a folder of exports holds, and what was measured of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from clip_jax.export.graph import Tower
from clip_jax.export.measure import Measured
from clip_jax.interop.packing import Precision
from clip_jax.models.clip import CLIPConfig
from clip_jax.plain import from_dict

RECORD = "export.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported(Measured):
    """A file. path: within the folder. batch: of every call, None for any. seconds: that writing took."""

    path: str
    format: str
    precision: Precision
    tower: Tower
    preprocess: bool
    batch: int | None
    bytes: int
    parameters: int
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """source: what was exported, in words. model: its configuration. origin: what is known of its training. samples: how many
    images and captions the files ran on. overlaps: of FORMAT-PRECISION with both towers of it, as Measured.overlap. made_with:
    versions of packages. machine: that exported, whose milliseconds they are."""

    source: str
    model: CLIPConfig
    origin: dict[str, Any]
    samples: int
    files: tuple[Exported, ...]
    overlaps: dict[str, float]
    made_with: dict[str, str]
    machine: str


def read(folder: Path) -> Record:
    """Raises FileNotFoundError where there is none, ValueError where it is damaged; both name the file."""
    file = folder / RECORD
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no {RECORD}; give a folder that clip-jax export has written")
    try:
        return from_dict(Record, json.loads(file.read_text()), "export")
    except (json.JSONDecodeError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
