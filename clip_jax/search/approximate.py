"""Approximate search above a million pictures: USearch's graph (HNSW, Malkov and Yashunin 2016) proposes, float64 decides."""

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from clip_jax.search.exact import Vectors, largest, products
from clip_jax.search.store import IndexedModel, Store

EXACT = 1_000_000  # vectors up to which every one is looked at
_PROPOSED = 10  # proposals for each result; the graph's own cosines are of bfloat16
_LOOKED_AT = 1024  # nodes that a search keeps in sight
_ADDED = 10_000  # vectors between two calls of progress
_SAVED = 500_000  # vectors between two times on the disk


class Approximate:
    """Of one model in an index, what `Vectors` offers, with few of the vectors in memory. May be shared among threads."""

    def __init__(self, store: Store, model: IndexedModel):
        """Raises ValueError where the graph is not of just the pictures in the index, or the `search` extra is missing."""
        self._store, self._model, self._numbers = store, model, store.numbers(model)
        self._graph = _read(store, model, view=True)
        if self._graph is None or not np.array_equal(np.sort(_keys(self._graph)), self._numbers):
            raise ValueError(
                f"the graph of {model.source} in {store.out} is not complete; run "
                f"clip-jax search index --model {model.source} FOLDER --out {store.out}"
            )
        self._graph.expansion_search = _LOOKED_AT

    def __len__(self) -> int:
        return len(self._numbers)

    def vector(self, number: int) -> np.ndarray | None:
        """The embedding f32[E] of that number, None where there is none."""
        found = self._store.some_vectors(self._model, [number])
        return found.rows[0] if len(found) else None

    def top(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(numbers i64[<= k], cosines f32) of nearly always the nearest, best first. query: unit-norm f32[E]."""
        if k < 1 or query.shape != (self._model.size,) or not np.isfinite(query).all():
            raise ValueError(f"k is {k}, the query {list(query.shape)}; give k >= 1 and finite [{self._model.size}]")
        proposed = np.sort(self._graph.search(query, k * _PROPOSED, threads=1).keys).tolist()
        found = self._store.some_vectors(self._model, proposed)
        scores = products(found.rows, query)
        best = largest(scores, k)
        best = best[np.argsort(-scores[best], kind="stable")]
        return found.numbers[best], scores[best].astype(np.float32)


def open_vectors(store: Store, model: IndexedModel) -> Vectors | Approximate:
    """All vectors up to EXACT, a graph above. Raises ValueError as Approximate does."""
    return Approximate(store, model) if len(store.numbers(model)) > EXACT else store.vectors(model)


def check_extra(count: int) -> None:
    """Raises ValueError, which names the extra, where so many pictures need a library that is not installed."""
    if count > EXACT:
        _library(count)


def connect(
    store: Store, model: IndexedModel, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Above EXACT vectors, brings the model's graph up to date: without what is gone, with what is new.

    progress: called with (vectors done, vectors to do).
    """
    numbers = store.numbers(model)
    file = store.graph(model)
    if len(numbers) <= EXACT:
        file.unlink(missing_ok=True)
        return
    graph = _read(store, model, view=False)
    if graph is None or graph.ndim != model.size:
        graph = _library(len(numbers)).Index(ndim=model.size, metric="cos", dtype="bf16")
    there = _keys(graph)
    gone, new = np.setdiff1d(there, numbers), np.setdiff1d(numbers, there)
    if len(gone):
        graph.remove(gone)
    for start in range(0, len(new), _ADDED):
        progress(start, len(new))
        found = store.some_vectors(model, new[start : start + _ADDED].tolist())
        graph.add(found.numbers, found.rows, threads=os.cpu_count() or 1)
        if (start + _ADDED) % _SAVED == 0:
            _save(graph, file)
    if len(gone) or len(new):
        _save(graph, file)
    progress(len(new), len(new))


def _save(graph: Any, file: os.PathLike) -> None:
    draft = f"{os.fspath(file)}.draft"
    graph.save(draft)
    with open(draft, "rb+") as written:
        os.fsync(written.fileno())
    os.replace(draft, file)


def _read(store: Store, model: IndexedModel, *, view: bool) -> Any:
    """The graph on disk, None where there is none or it cannot be read."""
    library = _library(len(store.numbers(model)))
    try:
        return library.Index.restore(store.graph(model), view=view)
    except (ValueError, RuntimeError, OSError):
        return None


def _keys(graph: Any) -> np.ndarray:
    return np.asarray(graph.keys).astype(np.int64) if len(graph) else np.zeros(0, np.int64)


def _library(count: int) -> Any:
    try:
        return importlib.import_module("usearch.index")
    except ImportError as error:
        raise ValueError(
            f"{count:,} pictures: above {EXACT:,} an approximate index is needed: pip install 'clip_jax[search]'"
        ) from error
