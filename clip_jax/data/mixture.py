"""Several sources as one, each in proportion to its weight throughout."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from clip_jax.data.source import Sample, Source

_PERIOD = 1 << 16  # samples; a weight's share is rounded to a multiple of 1 / _PERIOD


class Mixture:
    """A Source whose sample i is a pure function of i, the weights and the sources' lengths.

    A fixed pattern of 65,536 turns repeats: a source of share p has its turns evenly spaced, so that any n neighbours
    hold n * p of it to within a few samples. Its own samples follow in order and, when exhausted, begin again. The
    length is the least in which every source is seen whole, so sources smaller than their share repeat. Uids and shards
    are the sources' own. Labels are kept where all sources have the same classes, and dropped elsewhere.

    Raises ValueError for no sources, an empty source, and a weight that is not a positive number.
    """

    def __init__(self, sources: Sequence[tuple[float, Source]], *, name: str = "mixture"):
        if not sources:
            raise ValueError(f"{name}: no sources; give pairs (weight, source)")
        for weight, source in sources:
            if not (weight > 0 and math.isfinite(weight)):
                raise ValueError(f"{name}: weight {weight} of {source.name}; give a positive number, or leave it out")
            if not len(source):
                raise ValueError(f"{name}: {source.name} has no samples")
        self.name = name
        self._sources = [source for _, source in sources]
        shared = {source.classes for source in self._sources}
        self.classes = shared.pop() if len(shared) == 1 else ()
        turns = _apportion([weight for weight, _ in sources], _PERIOD, name)
        self._turns = np.array(turns, np.int64)
        self._pattern, self._earlier = _interleave(turns)
        self._length = max(self._index_of(number, len(source) - 1) for number, source in enumerate(self._sources)) + 1

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """The sample whose turn it is. Raises what its source raises."""
        number, inner = self.locate(index)
        sample = self._sources[number][inner]
        return sample if self.classes else dataclasses.replace(sample, label=None)

    def shard(self, index: int) -> str:
        """The source's name for it."""
        number, inner = self.locate(index)
        return self._sources[number].shard(inner)

    def uid(self, index: int) -> int:
        """The source's own."""
        number, inner = self.locate(index)
        return self._sources[number].uid(inner)

    @property
    def sources(self) -> list[Source]:
        """In the order given."""
        return list(self._sources)

    def locate(self, index: int) -> tuple[int, int]:
        """(number of the source, index within it)."""
        if not 0 <= index < self._length:
            raise IndexError(f"{self.name}: sample {index} of {self._length}")
        period, turn = divmod(index, len(self._pattern))
        number = int(self._pattern[turn])
        rank = period * int(self._turns[number]) + int(self._earlier[turn])
        return number, rank % len(self._sources[number])

    def _index_of(self, number: int, rank: int) -> int:
        """Where source `number` has its turn `rank`, counted from 0."""
        period, within = divmod(rank, int(self._turns[number]))
        return period * len(self._pattern) + int(np.flatnonzero(self._pattern == number)[within])


def _apportion(weights: list[float], period: int, name: str) -> list[int]:
    """Turns of each source: weights scaled to `period`, the largest remainders rounded up (Hamilton's method)."""
    total = math.fsum(weights)
    exact = [weight / total * period for weight in weights]
    turns = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: turns[i] - exact[i])
    for i in by_remainder[: period - sum(turns)]:
        turns[i] += 1
    if min(turns) < 1:
        least = min(range(len(turns)), key=turns.__getitem__)
        raise ValueError(f"{name}: weight {weights[least]} is less than 1 / {period} of all; raise it or leave it out")
    return turns


def _interleave(turns: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(source i32[period], its turns before that i32[period]): turn j of n falls at (j + 1/2) / n, ties in order."""
    source = np.repeat(np.arange(len(turns), dtype=np.int32), turns)
    rank = np.concatenate([np.arange(count, dtype=np.int32) for count in turns])
    when = (rank + 0.5) / np.array(turns)[source]
    order = np.argsort(when, kind="stable")
    return source[order], rank[order]
