"""A teacher's embeddings on disk, found by sample uid and read by memory mapping: checked on opening, then trusted."""

import functools
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.data import files
from clip_jax.data.source import BadSample, Source
from clip_jax.data.teacher_check import check_file, check_index
from clip_jax.data.teacher_index import distinct_samples, places
from clip_jax.data.teacher_manifest import INDEX, Manifest, read_manifest
from clip_jax.data.teacher_shards import DTYPES, caption_key, map_tensors
from clip_jax.data.views import View

_log = logging.getLogger(__name__)

# A process on Linux may map 65,530 files: three stores of this size. In a larger one, a row of another shard costs the
# time of mapping it, some 0.1 ms.
_MAPPED_SHARDS = 20_000
_LOG_SECONDS = 10
_PROBED = 16  # samples whose captions are looked up


class TeacherStore:
    """A finished store, for reading from any thread; a copy sent to another process maps the files again when it reads.

    manifest: what the store is. A row is a sample's number in it, counted through all shards. Embeddings are of unit norm
    to within the rounding of the stored type.

    verify: on opening, read every byte: checksums, the norm of every row, uids. Sizes, headers and row counts are checked
    always. Raises ValueError that names the file and what differs, FileNotFoundError where there is no such folder. Reading
    raises RuntimeError for a file that is gone or was written to since it was checked.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True):
        self.folder = Path(folder).expanduser().resolve()
        self.manifest: Manifest = read_manifest(self.folder)
        self._files = [str(self.folder / shard.file) for shard in self.manifest.shards]
        self._files.append(str(self.folder / INDEX))
        self._ends = np.cumsum([shard.rows for shard in self.manifest.shards], dtype=np.int64)
        self._check(verify=verify)
        self._open_files()

    def verify(self) -> None:
        """Reads every byte, as opening with verify=True does. Raises ValueError that names the file and what differs."""
        self._check(verify=True)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_shard", "_index")}

    def __setstate__(self, state: dict[str, Any]):
        self.__dict__.update(state)
        self._open_files()

    def __len__(self) -> int:
        """Rows."""
        return self.manifest.rows

    def rows(self, uids: np.ndarray) -> np.ndarray:
        """The rows i64[n] of samples u64[n], -1 for one that has none."""
        self._same_as_checked([-1])
        index = self._index()
        rows = places(np.asarray(uids, np.uint64), index["uid"])
        rows[rows >= 0] = index["row"][rows[rows >= 0]]
        return rows

    def is_bad(self, uid: int) -> bool:
        """Whether the sample is one that could not be read when the store was made."""
        return bool(places(np.array([uid], np.uint64), self._index()["bad"])[0] >= 0)

    def image(self, rows: np.ndarray, views: np.ndarray | int = 0) -> np.ndarray:
        """Image embeddings f32[n, D] of `rows` i64[n], each of its view i64[n] in [0, V)."""
        shards, inner = self._locate(rows)
        views = np.broadcast_to(np.asarray(views, np.int64), inner.shape)
        if views.size and (views.min() < 0 or views.max() >= self.manifest.image_views):
            raise IndexError(f"{self.folder}: view {views.min()} or {views.max()} of {self.manifest.image_views}")
        places = zip(shards.tolist(), inner.tolist(), views.tolist(), strict=True)
        return self._collect((self._shard(shard)["image"][row, view] for shard, row, view in places), len(inner))

    def text(self, rows: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Text embeddings f32[n, D] of one caption of each row. Raises ValueError for one that the row does not have."""
        if not self.manifest.captions:
            raise ValueError(
                f"{self.folder} holds no text embeddings; make the store with clip-jax embed --captions, or leave out the "
                "losses that need them"
            )
        shards, inner = self._locate(rows)
        found = []
        for shard, row, caption in zip(shards.tolist(), inner.tolist(), captions, strict=True):
            tensors = self._shard(shard)
            start, end = tensors["caption_start"][row : row + 2].tolist()
            keys = tensors["caption_key"][start:end].tolist()
            try:
                found.append(tensors["text"][start + keys.index(caption_key(caption))])
            except ValueError:
                raise ValueError(
                    f"{self.folder}: sample {tensors['uid'][row]} has no caption {caption!r} among its {len(keys)}; the "
                    "data set's captions have changed since the store was made: run clip-jax embed again"
                ) from None
        return self._collect(found, len(inner))

    def view(self, row: int, number: int) -> View:
        """How stored view `number` of a row was made. Raises ValueError for a store without views."""
        if self.manifest.views is None:
            raise ValueError(f"{self.folder} holds no views; its images were preprocessed without chance")
        shards, inner = self._locate(np.array([row]))
        if not 0 <= number < self.manifest.views.count:
            raise IndexError(f"{self.folder}: view {number} of {self.manifest.views.count}")
        return View.from_row(self._shard(int(shards[0]))["view"][int(inner[0]), number])

    def check_source(self, source: Source, *, synthetic: bool = False) -> None:
        """Raises ValueError unless every sample of `source` is in the store, or known there as one that cannot be read, and
        a few samples, which it reads, have no caption but those of the store. synthetic: and no generated one, either."""
        uids, indices = distinct_samples(source)
        index = self._index()
        missing = np.flatnonzero((places(uids, index["uid"]) < 0) & (places(uids, index["bad"]) < 0))
        if len(missing):
            made = self.manifest.source
            examples = ", ".join(f"{uids[i]} in {source.shard(int(indices[i]))}" for i in missing[:3])
            raise ValueError(
                f"{self.folder} is the store of another data set: it lacks {len(missing):,} of the {len(uids):,} samples of "
                f"{source.name!r}, e.g. {examples}; it was made of the {made.samples:,} samples of {made.name!r}. Give that "
                "data set, or run clip-jax embed on this one"
            )
        there = np.flatnonzero(self.rows(uids) >= 0) if self.manifest.captions else np.zeros(0, np.int64)
        for place in there[np.unique(np.linspace(0, max(0, len(there) - 1), min(_PROBED, len(there))).astype(int))]:
            try:
                sample = source[int(indices[place])]
            except BadSample:
                continue
            captions = (*sample.captions, *(sample.synthetic if synthetic else ()))
            self.text(np.repeat(self.rows(uids[place : place + 1]), len(captions)), captions)

    def _collect(self, rows: Iterable[np.ndarray], count: int) -> np.ndarray:
        stored = np.empty((count, self.manifest.teacher.embed_dim), DTYPES[self.manifest.dtype])
        for number, row in enumerate(rows):
            stored[number] = row
        if stored.dtype == np.float32:
            return stored
        return (stored.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)  # bf16 is the upper half

    def _locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shard i64[n], row within it i64[n]); the shards are still those that were checked."""
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(
                f"{self.folder}: row {rows.min()} or {rows.max()} of {len(self)}; -1 is a sample without one"
            )
        shards = np.searchsorted(self._ends, rows, side="right")
        self._same_as_checked(np.unique(shards).tolist())
        return shards, rows - np.concatenate([[0], self._ends])[shards]

    def _same_as_checked(self, numbers: Iterable[int]) -> None:
        """numbers: of shards; -1 is the index. A map of a file that was cut ends the process when it is read."""
        for number in numbers:
            path = self._files[number]
            if (now := files.version(path)) != self._versions[number]:
                raise RuntimeError(
                    f"{path} {'has changed' if now else 'is gone'} since it was checked; put it back as it was, and start "
                    "the same command again"
                )

    def _open_files(self):
        paths = self._files
        self._shard = functools.lru_cache(_MAPPED_SHARDS)(lambda number: map_tensors(Path(paths[number])))
        self._index = functools.cache(lambda: map_tensors(Path(paths[-1])))

    def _check(self, *, verify: bool):
        said = time.monotonic()
        manifest = self.manifest
        present = {path.name for path in self.folder.glob("shard-*.safetensors")}
        named = {shard.file for shard in manifest.shards}
        if missing := sorted(named - present):
            raise ValueError(
                f"{self.folder}: {len(missing)} of {len(named)} shards are missing, e.g. {missing[0]}; copy them again"
            )
        if extra := sorted(present - named):
            raise ValueError(f"{self.folder}: {extra[0]} is not in its manifest; remove it, or copy the store again")
        self._versions = [files.version(path) for path in self._files]
        check: Callable[[Any], None] = functools.partial(check_file, self.folder, manifest, verify=verify)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for done, _ in enumerate(pool.map(check, manifest.shards), 1):
                if time.monotonic() - said > _LOG_SECONDS:
                    said = time.monotonic()
                    _log.info("%s: %d of %d shards are checked", self.folder, done, len(manifest.shards))
        check_index(self.folder, manifest, verify=verify)
