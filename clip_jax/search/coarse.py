"""A first pass over int8 copies of the vectors: it leaves out only rows that cannot be among the nearest.

A row is x = m + s c + e: the mean of all rows, a scale times int8 codes, and an error whose norm is known. A query is
q = t d + f likewise. So q.x lies within |e||q| + |f||s c| of q.m + s t (c.d), by Cauchy and Schwarz, and c.d is a sum of
whole numbers.
"""

import dataclasses
import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BLOCK = 2**16  # rows that one thread takes at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coarse:
    """codes: i8[N, E]. mean: f32[E]. scales, errors, lengths: f32[N], of each row s, |e| and |s c|."""

    codes: np.ndarray
    mean: np.ndarray
    scales: np.ndarray
    errors: np.ndarray
    lengths: np.ndarray

    def scores(self, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(about q.x f32[N], how far off at most f32[N]) of every row. query: finite f32[E]."""
        dots = _dots()
        assert dots is not None, "quantize was called where has_kernel() is false"
        step = float(np.abs(query).max()) / 127
        codes = np.rint(query.astype(np.float64) / step).astype(np.int8) if step else np.zeros(query.shape, np.int8)
        off = np.float32(np.linalg.norm(query.astype(np.float64) - step * codes.astype(np.float64)))
        length = np.float32(np.linalg.norm(query.astype(np.float64)))
        middle = np.float32(np.dot(self.mean.astype(np.float64), query))
        found, far = np.empty(len(self.codes), np.float32), np.empty(len(self.codes), np.float32)

        def block(start: int) -> None:
            part = slice(start, start + _BLOCK)
            sums = dots(codes, self.codes[part])
            found[part] = sums * (self.scales[part] * np.float32(step)) + middle
            far[part] = self.errors[part] * length + self.lengths[part] * off

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(block, range(0, len(self.codes), _BLOCK)))
        # Float32 rounds in the lines above, each time by 2**-24 of numbers no larger than these.
        far += np.float32(2**-20) * (length * (np.float32(np.linalg.norm(self.mean)) + self.lengths) + far)
        return found, far


def quantize(rows: np.ndarray) -> Coarse:
    """rows: finite f32[N, E]."""
    count, size = rows.shape
    mean = (rows.sum(axis=0, dtype=np.float64) / max(count, 1)).astype(np.float32)
    codes = np.empty((count, size), np.int8)
    scales, errors, lengths = (np.empty(count, np.float32) for _ in range(3))

    def block(start: int) -> None:
        part = slice(start, start + 2**12)
        rest = rows[part].astype(np.float64) - mean
        scale = (np.abs(rest).max(axis=1, initial=0) / 127).astype(np.float32)
        whole = np.rint(rest / np.where(scale > 0, scale, 1).astype(np.float64)[:, None]).clip(-127, 127)
        restored = whole * scale.astype(np.float64)[:, None]
        codes[part], scales[part] = whole, scale
        errors[part] = np.linalg.norm(rest - restored, axis=1) * (1 + 2**-20)
        lengths[part] = np.linalg.norm(restored, axis=1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(block, range(0, count, 2**12)))
    return Coarse(codes=codes, mean=mean, scales=scales, errors=errors, lengths=lengths)


def has_kernel() -> bool:
    """Whether this installation can multiply int8 quickly: NumPy by itself cannot, the `search` extra's numkong can."""
    return _dots() is not None


def _dots() -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """Of i8[E] and i8[N, E] the exact products f64[N]."""
    try:
        numkong = importlib.import_module("numkong")
    except ImportError:
        return None
    return lambda query, rows: np.asarray(numkong.cdist(query[None], rows, "dot"))[0]
