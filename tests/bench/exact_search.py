"""How long exact search takes: python -m tests.bench.exact_search [VECTORS]. Needs 2 kB a vector."""

import sys
import time

import numpy as np

from clip_jax.search.exact import Vectors


def main(count: int) -> None:
    """Prints milliseconds of a query's search for the top 20 of `count` vectors of 512 numbers."""
    rng = np.random.default_rng(0)
    rows = np.empty((count, 512), np.float32)
    for start in range(0, count, 2**16):
        part = rng.standard_normal((min(2**16, count - start), 512), dtype=np.float32)
        rows[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    vectors, times = Vectors(rows=rows, numbers=np.arange(count)), []
    for number in range(20):
        began = time.perf_counter()
        vectors.top(rows[number], 20)
        times.append((time.perf_counter() - began) * 1000)
    p50, p95 = np.percentile(times, (50, 95))
    print(f"{count:,} vectors of 512: p50 {p50:.1f} ms, p95 {p95:.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
