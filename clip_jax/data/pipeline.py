"""From a source to batches: the stream whose sample k of step s is a pure function of (seed, s, k).

No module below `clip_jax.data` imports JAX, so that worker processes start fast and take no device.
"""

import dataclasses
import functools
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, cast

import grain
import numpy as np
from absl import flags

from clip_jax.data.images import Augmentation, decode
from clip_jax.data.source import BadSample, Sample, Source
from clip_jax.data.taught import Target, Taught

_TRIES = 64  # of samples for one place of the stream, the first and those drawn in its stead
_THREADS = 2  # of this process that make batches where there are no workers; decoding lets go of Python's lock


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How batches are made.

    augmentation: of training images; None for images as evaluation sees them. workers: processes that decode, 0 for
    threads of this one. prefetch: batches made ahead, by each worker. max_bad_share: of the samples drawn so far; past
    it the run stops and names the shards.
    """

    augmentation: Augmentation | None = Augmentation()
    workers: int = 2
    prefetch: int = 2
    max_bad_share: float = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bad:
    """A sample that was replaced: where in the stream, which, and why."""

    index: int
    uid: int
    shard: str
    reason: str


_NOTHING = Taught()


class TrainStream:
    """The endless stream, one process's slice of each global batch, from `start_step` on; iterate for (batch, bad).

    batch: image u8[b, S, S, 3], text i32[b, L], uid u64[b], replaced i32[b]; b = batch_size / processes; and
    what `taught` adds for teachers. bad: the replaced samples behind it. The order is a permutation of the source an
    epoch; augmentation, the choice of a caption and what replaces a bad sample depend on the seed and the position in the
    stream alone.
    """

    def __init__(
        self,
        source: Source,
        target: Target,
        config: ReadConfig,
        *,
        seed: int,
        batch_size: int,
        start_step: int = 0,
        process: int = 0,
        processes: int = 1,
        taught: Taught = _NOTHING,
    ):
        if config.workers < 0 or config.prefetch < 1 or not 0 <= config.max_bad_share <= 1:
            raise ValueError(f"{config}: workers at least 0, prefetch at least 1, max_bad_share in [0, 1]")
        if len(source) == 0:
            raise ValueError(f"source {source.name!r} is empty; nothing to train on")
        if batch_size % processes:
            raise ValueError(f"batch {batch_size} does not split over {processes} processes")
        local = batch_size // processes
        reader = _StreamReader(
            source, target, taught, config.augmentation, seed, batch_size, process * local, local, start_step
        )
        collate = _Collate(target, taught)
        batches = grain.MapDataset.source(reader).batch(local, drop_remainder=True, batch_fn=collate)
        if config.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # Grain asks for its own flags, which only absl.app would have set
            dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
            workers = grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=config.prefetch)
            dataset = dataset.mp_prefetch(workers)
        else:
            dataset = batches.to_iter_dataset(
                grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=config.prefetch)
            )
        self._iterator = iter(dataset)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], list[Bad]]]:
        return self

    def __next__(self) -> tuple[dict[str, Any], list[Bad]]:
        batch = next(self._iterator)
        return batch, [Bad(**bad) for bad in json.loads(batch.pop("bad").tobytes())]

    def close(self) -> None:
        """Ends worker processes and threads."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


class _StreamReader:
    """Local position -> one sample, decoded and augmented; picklable, so that workers read it too."""

    def __init__(
        self,
        source: Source,
        target: Target,
        taught: Taught,
        augmentation: Augmentation | None,
        seed: int,
        batch_size: int,
        offset: int,
        local: int,
        start_step: int,
    ):
        self._source, self._target, self._taught, self._augmentation = source, target, taught, augmentation
        self._seed, self._batch, self._offset, self._local, self._start = seed, batch_size, offset, local, start_step
        order = grain.MapDataset.range(len(source)).seed(seed)
        self._order = order.shuffle().repeat()
        self._min_side = taught.min_side(target, augmentation)
        self._maker = os.getpid()

    def __setstate__(self, state: dict[str, Any]):
        self.__dict__.update(state)
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid == self._maker:
            _follow_the_parent()

    def __len__(self) -> int:
        return sys.maxsize // 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, k = divmod(index, self._local)
        place = (self._start + step) * self._batch + self._offset + k  # in the global stream
        bad: list[dict[str, Any]] = []
        for attempt in range(_TRIES):
            chosen = self._choose(place, attempt)
            try:
                sample = self._source[chosen]
                rng = np.random.default_rng((self._seed, place))
                made = self._make(sample, rng)
            except BadSample as error:
                where = {"uid": self._source.uid(chosen), "shard": self._source.shard(chosen), "reason": error.reason}
                bad.append({"index": place} | where)
                continue
            return made | {"uid": sample.uid, "bad": bad}
        raise ValueError(
            f"{_TRIES} samples in a row, drawn from all of {self._source.name!r}, cannot be read; "
            f"the last one, in {bad[-1]['shard']}: {bad[-1]['reason']}"
        )

    def _choose(self, place: int, attempt: int) -> int:
        """The sample whose turn it is; then any, not the next ones, since a lost shard's samples lie side by side."""
        if attempt == 0:
            return cast(int, self._order[place])
        return int(np.random.default_rng((self._seed, place, attempt)).integers(len(self._source)))

    def _make(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        caption = sample.captions[int(rng.integers(len(sample.captions)))]
        if not caption.strip():
            raise BadSample("empty caption")
        pixels = sample.image
        if isinstance(pixels, bytes):
            pixels = decode(pixels, min_side=self._min_side)
        made = self._taught.make(self._target, self._augmentation, sample, pixels, rng)
        return made | {"caption": caption}


@functools.cache  # once a process
def _follow_the_parent() -> None:
    """Makes this worker end when its parent is gone, even by kill -9, and leaves Ctrl-C to the parent, and SIGTERM,
    which Slurm sends to every process of a job: the parent needs its workers for the step at hand.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end():
        parent.join()
        os._exit(1)

    threading.Thread(target=end, name="follow-the-parent", daemon=True).start()
    if threading.current_thread() is threading.main_thread():  # as it is in Grain's workers
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Collate:
    """Samples -> one batch; captions go through the tokenizer together."""

    def __init__(self, target: Target, taught: Taught):
        self._target, self._taught = target, taught

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        bad = [entry for sample in samples for entry in sample["bad"]]
        return self._taught.collate(self._target, samples) | {
            "image": np.stack([sample["image"] for sample in samples]),
            "text": self._target.tokenizer([sample["caption"] for sample in samples]),
            "uid": np.array([sample["uid"] for sample in samples], np.uint64),
            "replaced": np.array([len(sample["bad"]) for sample in samples], np.int32),
            "bad": np.frombuffer(json.dumps(bad).encode(), np.uint8),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalItem:
    """One sample as evaluation sees it: image u8[S, S, 3], all its captions, its label, its index in the source."""

    index: int
    image: np.ndarray
    captions: tuple[str, ...]
    label: int | None


def eval_items(source: Source, target: Target, indices: range, *, threads: int = 4) -> Iterator[EvalItem | Bad]:
    """The samples at `indices`, in order, without augmentation; a bad one comes as what is wrong with it."""
    reader = _EvalReader(source, target, indices)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=64)
    yield from grain.MapDataset.source(reader).to_iter_dataset(options)


class _EvalReader:
    def __init__(self, source: Source, target: Target, indices: range):
        self._source, self._target, self._indices = source, target, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> EvalItem | Bad:
        index = self._indices[index]
        try:
            sample = self._source[index]
            pixels = sample.image
            if isinstance(pixels, bytes):
                pixels = decode(pixels, min_side=self._target.image_size)
            image = self._target.plain(pixels)
        except BadSample as error:
            return Bad(index=index, uid=self._source.uid(index), shard=self._source.shard(index), reason=error.reason)
        return EvalItem(index=index, image=image, captions=sample.captions, label=sample.label)
