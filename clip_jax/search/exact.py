"""Exact search: the rows whose cosines with the query are largest, as float64 computes them from float32 numbers."""

import dataclasses

import numpy as np

from clip_jax.search.coarse import Coarse, has_kernel, quantize

_MANY = 2**16  # rows from which an int8 copy is worth its memory: fewer are multiplied in 5 ms as they are
_BLOCK = 2**13  # rows multiplied in float64 at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vectors:
    """Unit-norm rows f32[N, E] to search in, and the number that each carries: i64[N], ascending."""

    rows: np.ndarray
    numbers: np.ndarray
    _coarse: Coarse | None = dataclasses.field(init=False, repr=False)
    _longest: float = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        if self.rows.ndim != 2 or self.rows.dtype != np.float32 or self.numbers.shape != self.rows.shape[:1]:
            raise ValueError(
                f"rows are {self.rows.dtype}{list(self.rows.shape)} with {list(self.numbers.shape)} numbers; "
                "give f32[N, E] and [N]"
            )
        many = len(self.rows) >= _MANY and has_kernel()
        object.__setattr__(self, "_coarse", quantize(self.rows) if many else None)
        longest = np.einsum("ne,ne->n", self.rows, self.rows).max(initial=0) ** 0.5
        object.__setattr__(self, "_longest", float(longest))

    def __len__(self) -> int:
        return len(self.rows)

    def vector(self, number: int) -> np.ndarray | None:
        """The row f32[E] of that number, None where there is none."""
        place = int(np.searchsorted(self.numbers, number))
        return self.rows[place] if place < len(self.rows) and self.numbers[place] == number else None

    def top(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(numbers i64[min(k, N)], cosines f32) of the nearest, best first; equal ones in the order of their rows.

        query: unit-norm f32[E]. Raises ValueError for another shape, for a query that is not finite, and for k below 1.
        """
        if k < 1 or query.shape != self.rows.shape[1:] or not np.isfinite(query).all():
            raise ValueError(f"k is {k}, the query {list(query.shape)}; give k >= 1 and finite [{self.rows.shape[1]}]")
        query = query.astype(np.float32, copy=False)
        about, far = self._coarse.scores(query) if self._coarse else self._float32(query)
        seen = largest(about, k)
        # k rows are known to reach this, so no row that surely stays below it is among the best k.
        reached = products(self.rows[seen], query).min(initial=np.inf)
        left = np.flatnonzero(about + far >= reached) if len(seen) else seen
        places, scores = np.zeros(0, np.int64), np.zeros(0)
        for start in range(0, len(left), _BLOCK):
            part = left[start : start + _BLOCK]
            places, scores = np.append(places, part), np.append(scores, products(self.rows[part], query))
            kept = largest(scores, k)
            places, scores = places[kept], scores[kept]
        order = np.lexsort((places, -scores))
        return self.numbers[places[order]], scores[order].astype(np.float32)

    def _float32(self, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every row's product, and how far off at most: half of it by Higham, Accuracy and Stability, (3.5)."""
        off = len(query) * 2**-23 * self._longest * float(np.linalg.norm(query))
        return self.rows @ query, np.full(len(self.rows), off, np.float32)


def products(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """f32[N, E], f32[E] -> f64[N]; equal rows get equal ones, which BLAS does not promise."""
    return (rows.astype(np.float64) * query).sum(axis=1)


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest, ascending; among equal ones at the border the first places."""
    if len(scores) <= k:
        return np.arange(len(scores))
    few = largest(scores[: len(scores) // 16], k) if len(scores) > 16 * k else np.arange(k)
    some = np.flatnonzero(scores >= scores[few].min())  # k are known to reach it, and on most days not many more
    border = np.partition(scores[some], -k)[-k]
    above = some[scores[some] > border]
    level = some[scores[some] == border][: k - len(above)]
    return np.sort(np.concatenate([above, level]))
