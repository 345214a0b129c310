"""Exact search: every vector's cosine with the query, in float32, by blocks."""

import dataclasses

import numpy as np

_BLOCK = 2**16  # rows: a block's scores stay in the processor's cache while its best are taken


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vectors:
    """Unit-norm rows f32[N, E] to search in, and the number that each carries: i64[N]."""

    rows: np.ndarray
    numbers: np.ndarray

    def __post_init__(self):
        if self.rows.ndim != 2 or self.rows.dtype != np.float32 or self.numbers.shape != self.rows.shape[:1]:
            raise ValueError(
                f"rows are {self.rows.dtype}{list(self.rows.shape)} with {list(self.numbers.shape)} numbers; "
                "give f32[N, E] and [N]"
            )

    def top(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(numbers i64[min(k, N)], cosines f32) of the nearest, best first; equal ones in the order of their rows.

        query: unit-norm f32[E]. Raises ValueError for another shape, for a query that is not finite, and for k below 1.
        """
        if k < 1 or query.shape != self.rows.shape[1:] or not np.isfinite(query).all():
            raise ValueError(f"k is {k}, the query {list(query.shape)}; give k >= 1 and finite [{self.rows.shape[1]}]")
        query = query.astype(np.float32, copy=False)
        places, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
        for start in range(0, len(self.rows), _BLOCK):
            found = self.rows[start : start + _BLOCK] @ query
            best = _largest(found, k)
            places = np.concatenate([places, best + start])
            scores = np.concatenate([scores, found[best]])
            kept = _largest(scores, k)
            places, scores = places[kept], scores[kept]
        order = np.lexsort((places, -scores))
        return self.numbers[places[order]], scores[order]


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest, ascending; among equal ones at the border the first places."""
    if len(scores) <= k:
        return np.arange(len(scores))
    border = scores[np.argpartition(scores, -k)[-k:]].min()
    above = np.flatnonzero(scores > border)
    level = np.flatnonzero(scores == border)[: k - len(above)]
    return np.sort(np.concatenate([above, level]))
