"""The files of clip-retrieval's layout as one table of rows.

Its folder (clip_inference/writer.py of https://github.com/rom1504/clip-retrieval) holds, for each part N:
img_emb/img_emb_N.npy and text_emb/text_emb_N.npy, float16 [rows, D]; metadata/metadata_N.parquet with `image_path` (the
path of an image file, or within tars the sample's key), `caption`, and fields of the samples' json, img2dataset's `key`
among them.
"""

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

_PART = re.compile(r"img_emb_(\d+)\.npy")
_OPEN_PARTS = 16


class Names(NamedTuple):
    """What the metadata say of a row, "" for what they do not have."""

    image_path: str
    key: str
    caption: str


class Parts:
    """All parts, their rows counted through. embed_dim: D. has_text: whether there are text embeddings.

    Raises ValueError for files that are missing, unreadable or do not fit together, FileNotFoundError for no folder.
    """

    def __init__(self, folder: Path):
        self.folder, self._numbers = folder, _numbers(folder)
        self.has_text = (folder / "text_emb").is_dir()
        self._image = functools.lru_cache(_OPEN_PARTS)(lambda part: _embeddings(self._path("img_emb", part, "npy")))
        self._text = functools.lru_cache(_OPEN_PARTS)(lambda part: _embeddings(self._path("text_emb", part, "npy")))
        self._table = functools.lru_cache(_OPEN_PARTS)(
            lambda part: _metadata(self._path("metadata", part, "parquet"), self.has_text)
        )
        shapes = [self._shape(part) for part in range(len(self._numbers))]
        sizes = sorted({dim for _, dim in shapes})
        if len(sizes) > 1:
            raise ValueError(
                f"{folder}: embeddings of several sizes, {', '.join(map(str, sizes))}, are of several models"
            )
        self.embed_dim = sizes[0]
        self._starts = np.cumsum([0, *(rows for rows, _ in shapes)], dtype=np.int64)

    def __len__(self) -> int:
        """Rows."""
        return int(self._starts[-1])

    def image(self, rows: np.ndarray) -> np.ndarray:
        """Image embeddings f32[n, D] of rows i64[n], of any norm."""
        return self._gather(self._image, rows)

    def text(self, rows: np.ndarray) -> np.ndarray:
        """Text embeddings f32[n, D] of rows i64[n], of any norm."""
        return self._gather(self._text, rows)

    def caption(self, row: int) -> str:
        """The text that was embedded, without white space at its ends, as sources give captions."""
        parts, inner = self._locate(np.array([row]))
        return (self._table(int(parts[0]))["caption"][int(inner[0])].as_py() or "").strip()

    def names(self, size: int) -> Iterator[list[Names]]:
        """Of all rows in order, at most `size` at once."""
        for part in range(len(self._numbers)):
            table = self._table(part)
            for start in range(0, table.num_rows, size):
                chunk = table.slice(start, size)
                columns = [
                    [str(value or "") for value in chunk[name].to_pylist()]
                    if name in chunk.column_names
                    else [""] * chunk.num_rows
                    for name in Names._fields
                ]
                yield [Names(*row) for row in zip(*columns, strict=True)]

    def where(self, row: int) -> str:
        """The row as messages name it."""
        parts, inner = self._locate(np.array([row]))
        return f"row {inner[0]} of part {self._numbers[int(parts[0])]}"

    def _gather(self, read: Callable[[int], np.ndarray], rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), self.embed_dim), np.float32)
        parts, inner = self._locate(rows)
        for part in np.unique(parts).tolist():
            of_part = parts == part
            out[of_part] = read(part)[inner[of_part]]
        return out

    def _locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        return parts, rows - self._starts[parts]

    def _path(self, kind: str, part: int, suffix: str) -> Path:
        return self.folder / kind / f"{kind}_{self._numbers[part]}.{suffix}"

    def _shape(self, part: int) -> tuple[int, int]:
        shapes = [self._image(part).shape, *([self._text(part).shape] if self.has_text else [])]
        counts = [self._table(part).num_rows, *(rows for rows, _ in shapes)]
        if len(set(counts)) > 1 or len(set(shapes)) > 1:
            kinds = " and ".join(map(str, shapes))
            raise ValueError(
                f"{self.folder}: part {self._numbers[part]} has embeddings {kinds} for {counts[0]} rows of metadata; "
                "they must be as many and of one size"
            )
        return shapes[0]


def _numbers(folder: Path) -> list[str]:
    """The parts' numbers as their file names have them, in order."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give the output_folder of clip-retrieval inference")
    numbers = [match[1] for path in (folder / "img_emb").glob("*.npy") if (match := _PART.fullmatch(path.name))]
    if not numbers:
        raise ValueError(
            f"{folder} has no img_emb/img_emb_0.npy; give the output_folder of clip-retrieval inference, which holds the "
            "folders img_emb, metadata and, with texts, text_emb"
        )
    return sorted(numbers, key=int)


def _embeddings(path: Path) -> np.ndarray:
    """Of one part, [rows, D] of any float type, mapped."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; the folder lacks a part")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is no readable array: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise ValueError(f"{path} does not hold floats [rows, D], as embeddings are")
    return array


def _metadata(path: Path, has_text: bool) -> pa.Table:
    """image_path, key and caption of one part, those that it has."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; the folder lacks a part")
    try:
        with pyarrow.parquet.ParquetFile(path) as parquet:
            present = parquet.schema_arrow.names
            table = parquet.read(columns=[name for name in Names._fields if name in present])
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no readable parquet file: {error}") from error
    if not {"image_path", "key"} & set(present) or (has_text and "caption" not in present):
        raise ValueError(
            f"{path} has the columns {', '.join(present)}; needed are image_path or key, and with texts caption"
        )
    return table
