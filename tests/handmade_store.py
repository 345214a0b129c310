"""A teacher store made by hand: thirty samples in three shards of random unit rows, and ways to damage it."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clip_jax.data.images import Augmentation
from clip_jax.data.source import BadSample, Sample
from clip_jax.data.teacher_index import finish_store
from clip_jax.data.teacher_manifest import (
    MANIFEST,
    SEAL,
    Manifest,
    SourceInfo,
    StoredViews,
    TeacherInfo,
    read_manifest,
    sealed,
)
from clip_jax.data.teacher_shards import ShardRows, map_tensors, shard_name, write_shard, write_tensors
from clip_jax.data.teacher_store import TeacherStore

DIM, ROWS, SHARDS = 24, 10, 3
VIEWS = StoredViews(count=2, seed=5, augmentation=Augmentation(scale=(0.3, 1.0), flip=0.5))
PLAIN = Manifest(
    teacher=TeacherInfo(name="ViT-B-32", weights_hash="ab12", embed_dim=DIM, logit_scale=4.6, model={"width": [1, 2]}),
    tokenizer="cd34",
    preprocessing={"size": 32, "mean": [0.5, 0.4, 0.3]},
    source=SourceInfo(name="pets", samples=ROWS * SHARDS, config={"kind": "table", "path": "pets.csv"}),
    rows_per_shard=ROWS,
)
FULL = dataclasses.replace(PLAIN, views=VIEWS, captions=True)


class Pets:
    """A source of thirty samples, of which one in ten cannot be read. said, generated: part of the captions of each kind."""

    name, classes = "pets", ()

    def __init__(self, uids: np.ndarray, said: int = 0, generated: int = 0):
        self.uids, self.said, self.generated = uids.tolist(), said, generated

    def __len__(self) -> int:
        return len(self.uids)

    def __getitem__(self, index: int) -> Sample:
        if index % ROWS == 3:
            raise BadSample("damaged")
        said, generated = (f"{self.uids[index]} said {number}" for number in (self.said, self.generated))
        return Sample(uid=self.uids[index], image=b"", captions=(said,), synthetic=(generated,))

    def shard(self, index: int) -> str:
        return f"{index // ROWS:05d}.tar"

    def uid(self, index: int) -> int:
        return self.uids[index]


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.standard_normal(shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def content(manifest: Manifest = FULL, seed: int = 0) -> list[ShardRows]:
    """Of every shard; the sample 3 of each could not be read, and sample r has r % 3 captions."""
    rng = np.random.default_rng(seed)
    shards = []
    for uids in rng.integers(0, 2**64, (SHARDS, ROWS), np.uint64):
        good = np.delete(uids, 3)
        captions = [[f"{uid} said {n}" for n in range(row % 3)] for row, uid in enumerate(good.tolist())]
        rows = ShardRows(uid=good, image=unit(rng, len(good), manifest.image_views, DIM), bad=uids[3:4])
        if manifest.views:
            drawn = [
                [manifest.views.draw(uid, n, 40, 50).to_row() for n in range(manifest.image_views)]
                for uid in good.tolist()
            ]
            rows = dataclasses.replace(rows, view=np.array(drawn))
        if manifest.captions:
            rows = dataclasses.replace(rows, captions=captions, text=unit(rng, sum(map(len, captions)), DIM))
        shards.append(rows)
    return shards


def write(folder: Path, manifest: Manifest = FULL, shards: list[ShardRows] | None = None) -> Manifest:
    folder.mkdir(exist_ok=True)
    shards = content(manifest) if shards is None else shards
    infos = [write_shard(folder, number, rows, dtype=manifest.dtype) for number, rows in enumerate(shards)]
    return finish_store(folder, manifest, infos)


def hashes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rewrite(folder: Path, shard: int, change: Callable[[dict[str, np.ndarray]], object], *, seal: bool = True) -> Path:
    """Changes the tensors of a shard as its writer would refuse to; `seal` makes the manifest agree with the file."""
    path = folder / shard_name(shard)
    tensors = {name: array.copy() for name, array in map_tensors(path).items()}
    change(tensors)
    info = write_tensors(path, tensors)
    if seal:
        manifest = read_manifest(folder)
        shards = [info if number == shard else entry for number, entry in enumerate(manifest.shards)]
        (folder / MANIFEST).write_text(dataclasses.replace(manifest, shards=tuple(shards)).to_json())
    return path


def edit(folder: Path, change: Callable[[dict], object], *, seal: bool = True) -> None:
    """Changes the manifest; `seal` makes its checksum agree."""
    fields = json.loads((folder / MANIFEST).read_text())
    checksum = fields.pop(SEAL)
    change(fields)
    (folder / MANIFEST).write_text(json.dumps(sealed(fields) if seal else {**fields, SEAL: checksum}))


def refused(folder: Path, *, verify: bool = True) -> str:
    with pytest.raises(ValueError, match=re.escape(str(folder))) as caught:
        TeacherStore(folder, verify=verify)
    return str(caught.value)
