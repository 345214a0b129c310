"""How long exact search takes: python -m tests.bench.exact_search [VECTORS]. Needs 2.6 kB a vector.

On a virtual machine of 2 AMD EPYC cores (AVX-512 VNNI), a million vectors of 512, top 20, ms (p50 / p95):

    int8 first pass by numkong, the rest in float64   23 / 25   what `top` does with the `search` extra
    float32 product by BLAS                           99 / 116  what it does without: memory gives 20 GB/s
    int8 x float32 sums, compiled by XLA              60 / 75   tried: bound by converting, not by memory
    int8 x int8 products, compiled by XLA            630 / 720  tried: scalar code
    reading the int8 copy once, adding nothing        15 / 16   the floor: 512 MB at 34 GB/s
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clip_jax.search.coarse import has_kernel
from clip_jax.search.exact import Vectors


def main(count: int) -> None:
    """Prints milliseconds of a query's search for the top 20 of `count` vectors of 512 numbers, and of reading them."""
    rng = np.random.default_rng(0)
    rows = np.empty((count, 512), np.float32)
    for start in range(0, count, 2**16):
        part = rng.standard_normal((min(2**16, count - start), 512), dtype=np.float32)
        rows[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    queries = rng.standard_normal((20, 512), dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    began = time.perf_counter()
    vectors = Vectors(rows=rows, numbers=np.arange(count))
    print(f"{count:,} vectors of 512, made ready in {time.perf_counter() - began:.1f} s")
    _measure("top 20" + ("" if has_kernel() else " (without the search extra)"), lambda n: vectors.top(queries[n], 20))
    _measure("the plain float32 product alone", lambda n: rows @ queries[n])
    wrong = 0
    for query in queries[:5]:
        wrong += not np.array_equal(vectors.top(query, 20)[0], np.argsort(-(rows @ query), kind="stable")[:20])
    print(f"{wrong} of 5 lists differ from the plain product's")
    bytes_ = (vectors._coarse.codes if vectors._coarse else rows).reshape(-1).view(np.int64)
    halves = np.array_split(bytes_, 2)
    with ThreadPoolExecutor(2) as pool:
        _measure(f"floor: reading {bytes_.nbytes:,} bytes", lambda n: list(pool.map(np.max, halves)))


def _measure(said: str, work: Callable[[int], object]) -> None:
    work(0)
    times = []
    for number in range(20):
        began = time.perf_counter()
        work(number)
        times.append((time.perf_counter() - began) * 1000)
    p50, p95 = np.percentile(times, (50, 95))
    print(f"{said}: p50 {p50:.1f} ms, p95 {p95:.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
