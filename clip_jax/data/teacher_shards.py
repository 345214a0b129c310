"""A shard of a teacher store: one safetensors file, written whole or not at all, with the same bytes every time.

| tensor | type | holds |
|---|---|---|
| uid | u64[R] | the samples, each once |
| image | bf16 or f32 [R, V, D] | their images' unit embeddings, of V views |
| view | f32[R, V, 15] | the views (clip_jax.data.views.View.to_row), where there are any |
| caption_start | i64[R + 1] | captions [r] to [r + 1] belong to row r |
| caption_key | u64[C] | caption_key of each text |
| text | bf16 or f32 [C, D] | the captions' unit embeddings, where they are stored |
| bad | u64[...] | samples of the shard's range that could not be read |
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa

from clip_jax.data import files
from clip_jax.data.views import VIEW_NUMBERS
from clip_jax.durable import write_durably

DTYPES: dict[str, Any] = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
# How far a row's norm may be from 1: the most that rounding can do, 2^-9 of each number in bf16.
TOLERANCE = {"bfloat16": 2.0**-8, "float32": 1e-4}
_SAFETENSORS = {  # widest first, which keeps every tensor aligned; the order in which safetensors itself writes
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
    "F32": DTYPES["float32"],
    "BF16": DTYPES["bfloat16"],
}
CHECKSUM = ".blake2b"  # ending of the file that holds a shard's checksum until the manifest does
_CHUNK = 1 << 20  # numbers checked at a time
_LONGEST_HEADER = 1 << 20  # bytes; ours has a few hundred


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One file of a store: the samples, captions and unreadable samples it holds, its bytes, their checksum in hex."""

    file: str
    rows: int
    captions: int
    bad: int
    bytes: int
    blake2b: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardRows:
    """What goes into a shard: uid u64[R], image [R, V, D] and text [C, D] of any float type and of unit norm, view
    f32[R, V, 15], captions of each row, bad u64[...]. view, and captions with text, are None where none are stored."""

    uid: np.ndarray
    image: np.ndarray
    view: np.ndarray | None = None
    captions: Sequence[Sequence[str]] | None = None
    text: np.ndarray | None = None
    bad: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint64))


def shard_name(number: int) -> str:
    """shard-00000.safetensors for 0."""
    return f"shard-{number:05d}.safetensors"


def caption_key(caption: str) -> int:
    """A stable 64-bit name of the exact text: blake2b over its UTF-8."""
    digest = hashlib.blake2b(caption.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def write_shard(folder: str | Path, number: int, rows: ShardRows, *, dtype: str = "bfloat16") -> FileInfo:
    """Writes shard `number`, replacing any before it; the file is there under its name only when it is whole, and then its
    checksum beside it.

    One process writes a shard. Raises ValueError for shapes that do not fit together, a uid that comes twice, and rows
    that are not finite or not of unit norm; OSError where it cannot be written.
    """
    name = shard_name(number)
    tensors = _tensors(rows, dtype, name)
    check_tensors(tensors, name)
    path = Path(folder).expanduser() / name
    info = write_tensors(path, tensors)
    write_durably(path.with_suffix(CHECKSUM), [info.blake2b.encode()])
    return info


def shard_info(path: str | Path, written: str = "") -> FileInfo:
    """What `write_shard` said of a shard that is there. written: its checksum then, where none lies beside it.

    Raises ValueError for a shard with other bytes now, and for one whose checksum is not known.
    """
    path = Path(path)
    beside = path.with_suffix(CHECKSUM)
    then, now = beside.read_text("ascii", "replace") if beside.is_file() else written, files.digest(str(path))
    if now != then:
        raise ValueError(f"{path} is not as it was written: its checksum was {then or 'not kept'}, now it is {now}")
    return _info(path, map_tensors(path), now)


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> FileInfo:
    """A safetensors file, atomically, in the order and with the padding of safetensors.save_file."""
    kinds = {dtype: (rank, name) for rank, (name, dtype) in enumerate(_SAFETENSORS.items())}
    keys = sorted(tensors, key=lambda key: (kinds[tensors[key].dtype][0], key))
    header, end = {}, 0
    for key in keys:
        begin, end = end, end + tensors[key].nbytes
        kind = kinds[tensors[key].dtype][1]
        header[key] = {"dtype": kind, "shape": list(tensors[key].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = write_durably(path, [len(text).to_bytes(8, "little") + text, *(_raw(tensors[key]) for key in keys)])
    return _info(path, tensors, digest)


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file of ours, read-only and mapped, without a file descriptor. Raises ValueError for a
    file that is none."""
    with pa.memory_map(str(path)) as file:  # keeps no descriptor, which an mmap.mmap does
        whole = memoryview(file.read_buffer())
    length = int.from_bytes(whole[:8], "little")
    if not 2 <= length <= min(_LONGEST_HEADER, len(whole) - 8):
        raise ValueError(
            f"{path}: no safetensors file, or a damaged one ({len(whole):,} bytes); write or copy it again"
        )
    text, view = bytes(whole[8 : 8 + length]), whole[8 + length :]
    try:
        header = json.loads(text)
        tensors, end = {}, 0
        for name, entry in header.items():
            dtype, shape = _SAFETENSORS[entry["dtype"]], [int(side) for side in entry["shape"]]
            last, (begin, end) = end, entry["data_offsets"]
            if min(shape, default=0) < 0 or begin != last or end != begin + math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} of shape {shape} at bytes {begin} to {end}")
            if end > len(view):
                raise ValueError(f"{name} ends at byte {end:,} of {len(view):,}")
            tensors[name] = np.frombuffer(view[begin:end], dtype).reshape(shape)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: its header is damaged ({error}); write or copy it again") from error
    if end != len(view):
        raise ValueError(f"{path}: {len(view):,} bytes of tensors where its header has {end:,}; write or copy it again")
    return tensors


def check_tensors(tensors: Mapping[str, np.ndarray], where: str) -> None:
    """Raises ValueError, beginning with `where`, for rows without unit norm, numbers that are not finite, and ids twice."""
    ids = np.concatenate([tensors["uid"], tensors["bad"]])
    if len(np.unique(ids)) != len(ids):
        distinct, counts = np.unique(ids, return_counts=True)
        raise ValueError(f"{where}: uid {distinct[counts > 1][0]} comes twice; a store holds each sample once")
    starts = tensors["caption_start"]
    if starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] != len(tensors["caption_key"]):
        raise ValueError(
            f"{where}: caption_start does not lead from 0 up to its {len(tensors['caption_key'])} captions"
        )
    for name in ("image", "text"):
        if name in tensors:
            _check_norms(tensors[name], name, where)
    if "view" in tensors and not np.isfinite(tensors["view"]).all():
        raise ValueError(f"{where}: a number of a stored view is not finite")


def _check_norms(array: np.ndarray, name: str, where: str) -> None:
    flat = array.reshape(-1, array.shape[-1])
    per_row = len(flat) // max(1, len(array))
    tolerance = TOLERANCE[array.dtype.name]
    step = max(1, _CHUNK // flat.shape[1])
    for start in range(0, len(flat), step):
        block = flat[start : start + step].astype(np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", block, block))
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= tolerance))  # NaN is wrong too
        if len(wrong):
            first = start + int(wrong[0])
            row = f"row {first // per_row}" + (f", view {first % per_row}" if array.ndim == 3 and per_row > 1 else "")
            finite = np.isfinite(block[wrong[0]]).all()
            what = f"has norm {norms[wrong[0]]:.6g}" if finite else "is not finite"
            raise ValueError(
                f"{where}: {name} {row} {what} ({len(wrong)} such of {len(block)} rows looked at); stored embeddings are "
                f"finite and of norm 1 to within {tolerance:.2g}"
            )


def _tensors(rows: ShardRows, dtype: str, name: str) -> dict[str, np.ndarray]:
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: give one of {', '.join(DTYPES)}")
    count, image = len(rows.uid), np.asarray(rows.image)
    if image.ndim != 3 or len(image) != count:
        raise ValueError(f"{name}: image of shape {image.shape} for {count} uids; give [{count}, views, embed_dim]")
    if (rows.captions is None) != (rows.text is None):
        raise ValueError(f"{name}: captions and text belong together; give both or neither")
    captions = rows.captions if rows.captions is not None else [()] * count
    keys = [caption_key(caption) for of_row in captions for caption in of_row]
    tensors = {
        "uid": np.asarray(rows.uid, np.uint64),
        "image": image.astype(DTYPES[dtype]),
        "caption_start": np.cumsum([0, *map(len, captions)], dtype=np.int64),
        "caption_key": np.array(keys, np.uint64),
        "bad": np.asarray(rows.bad, np.uint64),
    }
    if len(captions) != count:
        raise ValueError(f"{name}: captions of {len(captions)} rows for {count} uids")
    if rows.text is not None:
        text = np.asarray(rows.text)
        if text.shape != (len(keys), image.shape[2]):
            raise ValueError(
                f"{name}: text of shape {text.shape} for {len(keys)} captions; give [{len(keys)}, {image.shape[2]}]"
            )
        tensors["text"] = text.astype(DTYPES[dtype])
    if rows.view is not None:
        if np.shape(rows.view) != (*image.shape[:2], VIEW_NUMBERS):
            raise ValueError(
                f"{name}: view of shape {np.shape(rows.view)}; give {[*image.shape[:2], VIEW_NUMBERS]}, one a view of image"
            )
        tensors["view"] = np.asarray(rows.view, np.float32)
    return {key: np.ascontiguousarray(array) for key, array in tensors.items()}


def _info(path: Path, tensors: Mapping[str, np.ndarray], digest: str) -> FileInfo:
    rows, captions, bad = (len(tensors.get(key, ())) for key in ("uid", "caption_key", "bad"))
    size = path.stat().st_size
    return FileInfo(file=path.name, rows=rows, captions=captions, bad=bad, bytes=size, blake2b=digest)


def _raw(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
