"""Embeddings of a whole source, computed on all devices of all processes."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from clip_jax.data.pipeline import Bad, Target, eval_items
from clip_jax.data.source import Source
from clip_jax.models.clip import CLIPConfig
from clip_jax.models.towers import Output, tower
from clip_jax.sharding import to_global
from clip_jax.tokenizer_file import open_tokenizer


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A source's samples in the shared space; N samples that could be read, M captions.

    image: unit-norm f32[N, E], or features f32[N, F]. index: of each in the source, i64[N]. label: i64[N], -1 for none.
    caption: unit-norm f32[M, E]. owner: row of `image` each caption belongs to, i64[M]. key: equal for equal captions,
    u64[M]. bad: samples that could not be read on this process; bad_count: on all processes.
    """

    image: np.ndarray
    index: np.ndarray
    label: np.ndarray
    caption: np.ndarray
    owner: np.ndarray
    key: np.ndarray
    bad: tuple[Bad, ...]
    bad_count: int


class Encoder:
    """A model's two towers, jitted, over batches that are cut over all devices of the mesh.

    batch_size: of all devices together, rounded up to a multiple of them.
    """

    def __init__(self, config: CLIPConfig, params: Any, mesh: Mesh, batch_size: int = 256):
        devices = mesh.devices.size
        self.config, self._params, self._mesh = config, params, mesh
        self._local = -(-batch_size // devices) * devices // jax.process_count()
        self.target = eval_target(config)
        self.tokenizer = self.target.tokenizer

    def scale(self) -> float:
        """exp(logit_scale)."""
        return float(np.exp(jax.device_get(self._params["logit_scale"])))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm f32[len(texts), E]; each process gives the same texts and gets all."""
        share = _share(len(texts))
        return self._texts(texts[share.start : share.stop])

    def features(self, source: Source, *, limit: int = 0) -> Embedded:
        """As `source` without captions; `image` holds what a linear probe is trained on (see CLIP.penultimate_features)."""
        return self._source(source, "penultimate", captions=False, limit=limit)

    def source(self, source: Source, *, captions: bool = True, limit: int = 0) -> Embedded:
        """Images (and captions) of the first `limit` samples of a source, of all for 0. Each process reads its share."""
        return self._source(source, "image", captions=captions, limit=limit)

    def _source(self, source: Source, output: Output, *, captions: bool, limit: int) -> Embedded:
        count = min(limit, len(source)) if limit else len(source)
        share = _share(count)
        bad: list[Bad] = []
        index: list[int] = []
        label: list[int] = []
        said: list[tuple[int, str]] = []

        def images() -> Iterator[np.ndarray]:
            for item in eval_items(source, self.target, share):
                if isinstance(item, Bad):
                    bad.append(item)
                    continue
                index.append(item.index)
                label.append(-1 if item.label is None else item.label)
                said.extend((item.index, text) for text in item.captions if text.strip())
                yield item.image

        image = self._images(output, images(), len(share))
        texts = [text for _, text in said] if captions else []
        all_index = gather_rows(np.array(index, np.int64))
        row_of = {int(sample): row for row, sample in enumerate(all_index)}
        owners = gather_rows(np.array([sample for sample, _ in said] if captions else [], np.int64))
        return Embedded(
            image=image,
            index=all_index,
            label=gather_rows(np.array(label, np.int64)),
            caption=self._texts(texts),
            owner=np.array([row_of[int(sample)] for sample in owners], np.int64),
            key=gather_rows(np.array([normal_caption_key(text) for text in texts], np.uint64)),
            bad=tuple(bad),
            bad_count=count - len(all_index),
        )

    def _images(self, output: Output, images: Iterator[np.ndarray], at_most: int) -> np.ndarray:
        size = self.target.image_size
        return self._rows(output, images, at_most, np.zeros((size, size, 3), np.uint8))

    def _texts(self, texts: Sequence[str]) -> np.ndarray:
        tokens = self.tokenizer(list(texts)) if texts else ()
        return self._rows("text", iter(tokens), len(texts), np.zeros((self.tokenizer.context_length,), np.int32))

    def _rows(self, output: Output, rows: Iterator[np.ndarray], at_most: int, padding: np.ndarray) -> np.ndarray:
        """Embeddings of all processes' rows, in process order.

        at_most: an upper bound of this process's rows, for all processes must run the same number of batches.
        """
        encode, processes = tower(self.config, self._mesh, output), jax.process_count()
        batches = int(gather_rows(np.array([-(-at_most // self._local)])).max())
        # Where devices are not in process order, a global batch is not the processes' rows in order: each row is numbered.
        numbers = np.arange(self._local, dtype=np.int32) + jax.process_index() * self._local
        order = np.argsort(multihost_utils.process_allgather(to_global(numbers, self._mesh), tiled=True))
        blocks, count = [], 0
        for _ in range(batches):
            batch = list(itertools.islice(rows, self._local))
            count += len(batch)
            full = np.stack(batch + [padding] * (self._local - len(batch)))
            blocks.append(np.asarray(encode(self._params, to_global(full, self._mesh)))[order])
        if not blocks:
            return np.zeros((0, self.config.embed_dim), np.float32)
        by_process = np.stack(blocks).reshape(batches, processes, self._local, -1).swapaxes(0, 1)
        flat = by_process.reshape(processes, batches * self._local, -1)
        counts = gather_rows(np.array([count]))
        return np.concatenate([rows[:number] for rows, number in zip(flat, counts, strict=True)])


def eval_target(config: CLIPConfig) -> Target:
    """What the model takes, as the data pipeline wants it said. Raises ValueError where its tokenizer does not fit it."""
    preprocess = config.preprocess_cfg
    return Target(
        image_size=config.vision_cfg.image_size,
        tokenizer=open_tokenizer(config.text_cfg),
        resize_mode=preprocess.resize_mode,
        interpolation=preprocess.interpolation,
        fill_color=preprocess.fill_color,
    )


def check_readable(source: Source) -> None:
    """Raises ValueError where none of the first few samples can be read: better now than at the first evaluation."""
    few = range(min(16, len(source)))
    found = list(eval_items(source, Target(image_size=16), few, threads=1))
    if not found:
        raise ValueError(f"source {source.name!r} is empty; nothing to evaluate on")
    if all(isinstance(item, Bad) for item in found):
        raise ValueError(f"none of the first {len(few)} samples of source {source.name!r} can be read: {found[0]}")


def normal_caption_key(text: str) -> int:
    """Equal for captions that differ only in case and white space: 64 bits."""
    normal = " ".join(text.lower().split())
    return int.from_bytes(hashlib.blake2b(normal.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """All processes' rows, in process order: [n, ...] each -> [N, ...]; n may differ."""
    if jax.process_count() == 1:
        return rows
    counts = multihost_utils.process_allgather(np.array([len(rows)], np.int32)).reshape(-1)
    if not counts.max():
        return rows
    padded = np.zeros((int(counts.max()), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    words = padded.reshape(len(padded), -1).view(np.uint32)  # 64-bit numbers do not pass through JAX
    gathered = np.asarray(multihost_utils.process_allgather(words)).reshape(len(counts), len(padded), -1)
    whole = [np.ascontiguousarray(part[:number]) for part, number in zip(gathered, counts, strict=True)]
    return np.concatenate(whole).view(rows.dtype).reshape(-1, *rows.shape[1:])


def _share(count: int) -> range:
    """This process's part of range(count)."""
    each = -(-count // jax.process_count())
    return range(min(jax.process_index() * each, count), min((jax.process_index() + 1) * each, count))
