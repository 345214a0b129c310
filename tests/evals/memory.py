"""A source and an encoder made of arrays, for evaluations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_jax.data.source import BadSample, Sample, sample_uid
from clip_jax.evals.embed import Embedded, normal_caption_key


class Memory:
    """A source over entries (image, captions, label); a text in place of an entry is why it cannot be read."""

    name = "memory"

    def __init__(self, entries: Sequence[Any], classes: tuple[str, ...] = ()):
        self._entries, self.classes = entries, classes

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        if isinstance(self._entries[index], str):
            raise BadSample(self._entries[index])
        image, captions, label = self._entries[index]
        return Sample(uid=self.uid(index), image=image, captions=captions, label=label)

    def shard(self, index: int) -> str:
        return f"part {index // 4}"

    def uid(self, index: int) -> int:
        return sample_uid(self.name, str(index))


class FixedEncoder:
    """An encoder that gives what a test made up: `found` for a source, a row of `rows` for a text."""

    def __init__(self, found: Embedded, rows: dict[str, Sequence[float]] | None = None):
        self._found, self._rows = found, rows or {}

    def source(self, source: Any, *, captions: bool = True, limit: int = 0) -> Embedded:
        return self._found

    def features(self, source: Any, *, limit: int = 0) -> Embedded:
        return self._found

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self._rows[text] for text in texts], np.float32)


def embedded(
    image: Any, captions: Sequence[tuple[int, str, Any]] = (), *, label: Sequence[int] = (), bad_count: int = 0
) -> Embedded:
    """captions: (row of the image, text, embedding)."""
    image = np.asarray(image, np.float32)
    return Embedded(
        image=image,
        index=np.arange(len(image)),
        label=np.array(label or [-1] * len(image)),
        caption=np.array([row for _, _, row in captions], np.float32).reshape(len(captions), image.shape[1]),
        owner=np.array([owner for owner, _, _ in captions], np.int64),
        key=np.array([normal_caption_key(text) for _, text, _ in captions], np.uint64),
        bad=(),
        bad_count=bad_count,
    )
