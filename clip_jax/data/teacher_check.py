"""Whether the files of a teacher store are what its manifest says: by size and header, and, asked to, byte by byte."""

from pathlib import Path

import numpy as np

from clip_jax.data import files
from clip_jax.data.teacher_index import build_index
from clip_jax.data.teacher_manifest import Manifest
from clip_jax.data.teacher_shards import DTYPES, FileInfo, check_tensors, map_tensors
from clip_jax.data.views import VIEW_NUMBERS


def check_file(folder: Path, manifest: Manifest, shard: FileInfo, *, verify: bool) -> None:
    """Raises ValueError that names the file and what differs. verify: read all of it."""
    path = folder / shard.file
    tensors = _whole(path, shard, verify)
    count, dim, dtype = shard.rows, manifest.teacher.embed_dim, DTYPES[manifest.dtype]
    wanted: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
        "uid": (np.dtype(np.uint64), (count,)),
        "image": (dtype, (count, manifest.image_views, dim)),
        "caption_start": (np.dtype(np.int64), (count + 1,)),
        "caption_key": (np.dtype(np.uint64), (shard.captions,)),
        "bad": (np.dtype(np.uint64), (shard.bad,)),
    }
    if manifest.views:
        wanted["view"] = (np.dtype(np.float32), (count, manifest.views.count, VIEW_NUMBERS))
    if manifest.captions:
        wanted["text"] = (dtype, (shard.captions, dim))
    _same(path, tensors, wanted)
    if verify:
        check_tensors(tensors, str(path))


def check_index(folder: Path, manifest: Manifest, *, verify: bool) -> None:
    """The same for the index, which must be what the shards make it. Raises ValueError."""
    if manifest.index is None:
        raise ValueError(f"{folder}: its manifest names no index; run clip-jax embed again, which finishes the store")
    path = folder / manifest.index.file
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy it again")
    tensors = _whole(path, manifest.index, verify)
    kinds = {"uid": (np.dtype(np.uint64), manifest.rows), "row": (np.dtype(np.int64), manifest.rows)}
    kinds["bad"] = (np.dtype(np.uint64), manifest.bad)
    _same(path, tensors, {name: (dtype, (count,)) for name, (dtype, count) in kinds.items()})
    if verify:
        built = build_index(folder, manifest.shards)
        if wrong := [name for name in built if not np.array_equal(built[name], tensors[name])]:
            raise ValueError(f"{path}: its {wrong[0]} is not that of the shards; run clip-jax embed again, or copy it")


def _whole(path: Path, info: FileInfo, verify: bool) -> dict[str, np.ndarray]:
    size = path.stat().st_size
    if size != info.bytes:
        raise ValueError(
            f"{path} has {size:,} bytes, its manifest says {info.bytes:,}; it was cut or replaced: copy it again"
        )
    if verify and (found := files.digest(str(path))) != info.blake2b:
        raise ValueError(
            f"{path} is damaged: its checksum is {found}, its manifest says {info.blake2b}; copy it again, or remove it "
            "and run clip-jax embed again"
        )
    return map_tensors(path)


def _same(path: Path, tensors: dict[str, np.ndarray], wanted: dict[str, tuple[np.dtype, tuple[int, ...]]]) -> None:
    if odd := sorted(set(tensors) ^ set(wanted)):
        what = "holds" if odd[0] in tensors else "lacks"
        raise ValueError(f"{path} {what} the tensor {odd[0]!r}, by its manifest it has {', '.join(wanted)}")
    for name, (dtype, shape) in wanted.items():
        found = tensors[name]
        if found.dtype != dtype or found.shape != shape:
            raise ValueError(
                f"{path}: {name} is {found.dtype}{list(found.shape)}, by its manifest {dtype}{list(shape)}; "
                "the files are of two stores: copy it again"
            )
