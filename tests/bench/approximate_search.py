"""How long approximate search takes and how much of the exact list it finds: python -m tests.bench.approximate_search [VECTORS].

The vectors are drawn, of 512 numbers in which 48 directions hold most of the variance, as embeddings of pictures are; wholly
random ones have no near neighbours that a graph could follow. Needs 5 kB of disk and 4 kB of memory a vector, and minutes.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from clip_jax.search.approximate import Approximate, connect
from clip_jax.search.store import File, Picture, Store

SIZE, PART = 512, 20_000


def main(count: int) -> None:
    """Prints the time to build the graph, a query's milliseconds for the top 20, and recall@20."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((48, SIZE)) * 0.93 ** np.arange(48)[:, None]

    def draw(some: int) -> np.ndarray:
        rows = rng.standard_normal((some, 48)) @ directions + 0.15 * rng.standard_normal((some, SIZE))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "I", create=True)
        model = store.add_model("m", "identity", SIZE)
        for start in range(0, count, PART):
            pictures = [
                Picture(file=File(path=b"%d" % n, size=0, mtime=0), thumbnail=b"", vector=vector, width=1, height=1)
                for n, vector in enumerate(draw(min(PART, count - start)), start)
            ]
            store.add(model, pictures, [])
        began = time.perf_counter()
        connect(store, model)
        took = time.perf_counter() - began
        size = store.graph(model).stat().st_size
        print(f"{count:,} vectors connected in {took:,.0f} s: {count / took:,.0f} a second, {size / count:,.0f} B each")
        queries, times, near = draw(200), [], Approximate(store, model)
        found = []
        for query in queries:
            began = time.perf_counter()
            found.append(near.top(query, 20)[0])
            times.append((time.perf_counter() - began) * 1000)
        p50, p95 = np.percentile(times, (50, 95))
        print(f"top 20: p50 {p50:.1f} ms, p95 {p95:.1f} ms", flush=True)
        exact = store.vectors(model)
        shares = [
            len({*some.tolist()} & {*exact.top(query, 20)[0].tolist()}) / 20
            for some, query in zip(found, queries, strict=True)
        ]
        print(f"recall@20: mean {np.mean(shares):.4f}, least {min(shares):.2f}")
        store.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_200_000)
