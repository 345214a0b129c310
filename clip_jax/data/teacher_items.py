"""Samples as a teacher reads them to be stored: which go into which shard, and of each its views and all its captions."""

import collections
import dataclasses
import logging
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grain
import numpy as np

from clip_jax.data.images import decode
from clip_jax.data.pipeline import Bad, Target
from clip_jax.data.source import BadSample, Source
from clip_jax.data.teacher_index import distinct_samples
from clip_jax.data.teacher_manifest import Manifest, StoredViews
from clip_jax.data.teacher_shards import FileInfo, map_tensors, shard_info, shard_name
from clip_jax.data.views import VIEW_NUMBERS, View, apply_view

_log = logging.getLogger(__name__)

_AHEAD = 128  # samples made ahead of the device


class ShardedSamples:
    """The distinct samples of a source, cut into shards of `rows`, the last one shorter.

    uids u64[N], indices i64[N] in the source. Raises ValueError for a source without samples.
    """

    def __init__(self, source: Source, rows: int):
        if not len(source):
            raise ValueError(f"source {source.name!r} is empty; there is nothing to embed")
        self.source, self._rows = source, rows
        self.uids, self.indices = distinct_samples(source)
        self.shards = -(-len(self.uids) // rows)

    def __len__(self) -> int:
        """N."""
        return len(self.uids)

    def of(self, shard: int) -> np.ndarray:
        """The source's indices of a shard's samples, i64[R]."""
        return self.indices[shard * self._rows : (shard + 1) * self._rows]

    def written(self, folder: Path, began: Manifest | None) -> dict[int, FileInfo]:
        """The shards in the folder by number, but for those that are not as they were written, which are logged.

        began: what the folder's manifest said, if it has one. Raises ValueError for a shard of other samples.
        """
        known = {info.file: info.blake2b for info in (began.shards if began else ())}

        def read(shard: int) -> FileInfo | ValueError | None:
            path = folder / shard_name(shard)
            try:
                return shard_info(path, known.get(path.name, "")) if path.is_file() else None
            except ValueError as error:
                return error

        there: dict[int, FileInfo] = {}
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for shard, found in enumerate(pool.map(read, range(self.shards))):
                if isinstance(found, ValueError):
                    _log.warning("%s; it is made again", found)
                elif found is not None:
                    there[shard] = found
        for shard in there:
            tensors = map_tensors(folder / shard_name(shard))
            expected = self.uids[shard * self._rows : (shard + 1) * self._rows]
            if not np.array_equal(np.sort(np.concatenate([tensors["uid"], tensors["bad"]])), np.sort(expected)):
                raise ValueError(
                    f"{folder / shard_name(shard)} holds other samples than {self.source.name!r} has in that place now; "
                    "the data have changed since: choose another folder"
                )
        return there

    def files(self, uids: Sequence[int] | np.ndarray) -> collections.Counter[str]:
        """How many of these samples each of the source's files holds."""
        chosen = self.indices[np.isin(self.uids, np.asarray(uids, np.uint64))]
        return collections.Counter(self.source.shard(int(index)) for index in chosen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherItem:
    """image: u8[V, S, S, 3], V stored views, or the one image without chance. views: f32[V, K], their numbers, or f32[0, K].
    captions: all distinct ones, the synthetic last, or none where none are wanted; text: their ids, i32[C, L]. index: in the
    source."""

    index: int
    uid: int
    image: np.ndarray
    views: np.ndarray
    captions: tuple[str, ...]
    text: np.ndarray


def teacher_items(
    source: Source,
    target: Target,
    indices: Sequence[int] | np.ndarray,
    *,
    views: StoredViews | None,
    captions: bool,
    threads: int = 0,
) -> Generator[TeacherItem | Bad, None, None]:
    """The samples at `indices`, in order, made by `threads` threads ahead of time, by default as many as there are
    processors; a sample that cannot be used comes as what is wrong with it."""
    reader = _Reader(source, target, indices, views, captions)
    threads = threads or min(32, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(_AHEAD, 2 * threads))
    yield from grain.MapDataset.source(reader).to_iter_dataset(options)


class _Reader:
    def __init__(
        self,
        source: Source,
        target: Target,
        indices: Sequence[int] | np.ndarray,
        views: StoredViews | None,
        captions: bool,
    ):
        self._source, self._target, self._indices = source, target, indices
        self._views, self._captions = views, captions
        size = target.image_size
        self._min_side = views.augmentation.min_side(size) if views else size

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> TeacherItem | Bad:
        index = int(self._indices[index])
        try:
            sample = self._source[index]
            pixels = sample.image
            if isinstance(pixels, bytes):
                pixels = decode(pixels, min_side=self._min_side)
            image, views = self._stored_views(pixels, sample.uid)
        except BadSample as error:
            return Bad(index=index, uid=self._source.uid(index), shard=self._source.shard(index), reason=error.reason)
        captions = tuple(dict.fromkeys((*sample.captions, *sample.synthetic))) if self._captions else ()
        text = self._target.tokenizer(captions)
        return TeacherItem(index=index, uid=sample.uid, image=image, views=views, captions=captions, text=text)

    def _stored_views(self, pixels: np.ndarray, uid: int) -> tuple[np.ndarray, np.ndarray]:
        if self._views is None:
            return self._target.plain(pixels)[None], np.zeros((0, VIEW_NUMBERS), np.float32)
        interpolation = self._views.augmentation.interpolation
        drawn: list[View] = [self._views.draw(uid, number, *pixels.shape[:2]) for number in range(self._views.count)]
        images = [apply_view(pixels, self._target.image_size, view, interpolation) for view in drawn]
        return np.stack(images), np.stack([view.to_row() for view in drawn])
