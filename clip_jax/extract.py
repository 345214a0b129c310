"""A teacher's embeddings of a whole source, shard by shard, on all devices of all processes.

A shard's rows depend on nothing but the weights, the shard's own samples and the batch that one device takes: no batch
reaches over the border of two shards, every batch has the same shape, and a row's place in it is its place in the shard,
however many devices and processes share the work and however often it was interrupted.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Literal

import jax
import numpy as np

from clip_jax.data.pipeline import Bad
from clip_jax.data.teacher_items import TeacherItem, teacher_items
from clip_jax.data.teacher_manifest import Manifest
from clip_jax.data.teacher_shards import DTYPES, ShardRows
from clip_jax.data.views import VIEW_NUMBERS
from clip_jax.evals.embed import eval_target
from clip_jax.model import Model
from clip_jax.models.towers import tower
from clip_jax.sharding import MeshConfig, make_mesh, to_global
from clip_jax.store_writing import FEW_BAD, StoreWriting
from clip_jax.writers import MovingLine, bar, clock

_RUNNING = 2  # batches on the devices at once
_SHOWN = 0.1  # seconds between two looks at the progress


def extract(model: Model, store: StoreWriting) -> None:
    """Embeds and writes this process's shards of the store, one after the other. Each process has its own model.

    Raises ValueError for embeddings that are not finite, RuntimeError where too many samples cannot be read.
    """
    samples, plan, target = store.samples, store.plan, eval_target(model.config)
    indices = [samples.of(shard) for shard in store.own]
    items = teacher_items(
        samples.source,
        target,
        np.concatenate([np.zeros(0, np.int64), *indices]),
        views=plan.views,
        captions=plan.captions,
    )
    line = MovingLine(silent=jax.process_index() > 0)
    with contextlib.closing(line), contextlib.closing(items):
        line.say(_beginning(store))
        work = _Work(model, plan, line)
        watched = _watched(items, sum(map(len, indices)), work.samples_a_batch, line)
        for shard, of_shard in zip(store.own, indices, strict=True):
            store.write(shard, work.rows(itertools.islice(watched, len(of_shard))))


def _beginning(store: StoreWriting) -> str:
    samples, views = store.samples, store.plan.image_views
    there, again = samples.shards - len(store.missing), len(samples.source) - len(samples)
    return (
        f"embedding {len(samples):,} samples of {samples.source.name!r}, {views} view{'s' * (views > 1)} of each, into "
        f"{samples.shards} shard{'s' * (samples.shards > 1)}"
        + (f", {there} of which {'is' if there == 1 else 'are'} there" if there else "")
        + (f"; {again:,} more are repetitions, stored once" if again else "")
        + (f". This process embeds {len(store.own)} shards" if jax.process_count() > 1 else "")
    )


class _Work:
    """Both towers; samples in, a shard's content out."""

    def __init__(self, model: Model, plan: Manifest, line: MovingLine):
        side, length, batch_size = model.image_size, model.context_length, plan.batch_size
        assert batch_size is not None
        self._image = _Rows(model, "image", np.zeros((batch_size, side, side, 3), np.uint8), plan.dtype)
        self._text = _Rows(model, "text", np.zeros((batch_size, length), np.int32), plan.dtype)
        self._plan, self._line, self._told = plan, line, 0
        self.samples_a_batch = self._image.size // plan.image_views

    def rows(self, items: Iterator[TeacherItem | Bad]) -> ShardRows:
        """Of all samples of one shard."""
        uids, views, captions, bad = [], [], [], []
        for item in items:
            if isinstance(item, Bad):
                bad.append(item.uid)
                self._tell(item)
                continue
            uids.append(item.uid)
            views.append(item.views)
            captions.append(item.captions)
            self._image.add(item.image)
            self._text.add(item.text)
        image, text = self._image.finish(), self._text.finish()
        of_sample = (len(uids), self._plan.image_views)
        return ShardRows(
            uid=np.array(uids, np.uint64),
            image=image.reshape(*of_sample, image.shape[1]),
            view=np.array(views, np.float32).reshape(*of_sample, VIEW_NUMBERS) if self._plan.views else None,
            captions=captions if self._plan.captions else None,
            text=text if self._plan.captions else None,
            bad=np.array(bad, np.uint64),
        )

    def _tell(self, bad: Bad) -> None:
        self._told += 1
        if self._told <= FEW_BAD:
            more = "; more such are only counted" if self._told == FEW_BAD else ""
            self._line.say(f"sample {bad.uid} in {bad.shard} is left out: {bad.reason}{more}")


class _Rows:
    """Rows of any number through one tower, in batches of one shape, the devices some batches behind the reader."""

    def __init__(self, model: Model, name: Literal["image", "text"], like: np.ndarray, dtype: str):
        """like: one device's batch. dtype: of the embeddings."""
        self._mesh, self._params = make_mesh(MeshConfig(), jax.local_devices()), model.params
        self._tower, self._dtype, self._dim = tower(model.config, self._mesh, name), DTYPES[dtype], model.embed_dim
        self.size = len(like) * self._mesh.devices.size
        self._shape, self._kind = (self.size, *like.shape[1:]), like.dtype
        self._start()

    def add(self, rows: np.ndarray) -> None:
        """[n, ...] for any n."""
        while len(rows):
            taken = rows[: self.size - self._filled]
            self._batch[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            if self._filled == self.size:
                self._send()
            rows = rows[len(taken) :]

    def finish(self) -> np.ndarray:
        """Unit-norm [N, E] of all that was added since the last call."""
        if self._filled:
            self._send()
        self._fetch(0)
        found = np.concatenate([np.zeros((0, self._dim), self._dtype), *self._found])
        self._start()
        return found

    def _start(self) -> None:
        self._found: list[np.ndarray] = []
        self._running: list[tuple[jax.Array, int]] = []
        self._empty()

    def _empty(self) -> None:
        """A new batch: a device may still read the one before, and what is left of this one must not show old rows."""
        self._batch, self._filled = np.zeros(self._shape, self._kind), 0

    def _send(self) -> None:
        self._running.append((self._tower(self._params, to_global(self._batch, self._mesh)), self._filled))
        self._empty()
        self._fetch(_RUNNING)

    def _fetch(self, leave: int) -> None:
        while len(self._running) > leave:
            rows, count = self._running.pop(0)
            self._found.append(np.asarray(rows)[:count].astype(self._dtype))


def _watched(
    items: Iterator[TeacherItem | Bad], total: int, batch: int, line: MovingLine
) -> Iterator[TeacherItem | Bad]:
    """The items, while the line says how many have come, how fast since the first batch of so many, and what share of the
    time went into waiting for them."""
    began = asked = shown = time.monotonic()
    before, waited = 0, 0.0
    for done, item in enumerate(items, 1):
        now = time.monotonic()
        waited += now - asked
        if done == batch + 1:  # the first one has compiled
            began, before, waited = now, done, 0.0
        if done == total or now - shown > _SHOWN:
            shown = now
            head = f"{bar(done, total)} sample {done:,}/{total:,}"
            spent = max(now - began, 1e-9)
            rate = (done - before) / spent
            known = f"{rate:,.0f} samples/s  reader wait {waited / spent:.0%}  ETA {clock((total - done) / max(rate, 1e-9))}"
            line.show(
                f"{head}  {known}" if before and rate else f"{head}  the first batch compiles", last=done == total
            )
        yield item
        asked = time.monotonic()
