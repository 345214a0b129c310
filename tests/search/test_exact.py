"""Exact search against sorting all cosines."""

import numpy as np
import pytest

from clip_jax.search import exact
from clip_jax.search.exact import Vectors


def test_top_is_that_of_a_full_sort(monkeypatch):
    monkeypatch.setattr(exact, "_BLOCK", 64)
    rng = np.random.default_rng(0)
    rows = rng.integers(-2, 3, (500, 8)).astype(np.float32)  # many equal scores
    numbers = np.arange(500) + 7
    for k in (1, 20, 499, 500, 1000):
        query = rng.integers(-2, 3, 8).astype(np.float32)
        found, scores = Vectors(rows=rows, numbers=numbers).top(query, k)
        order = np.argsort(-(rows @ query), kind="stable")[:k]
        np.testing.assert_array_equal(found, numbers[order])
        np.testing.assert_array_equal(scores, (rows @ query)[order])


def test_an_empty_index_and_bad_queries():
    empty = Vectors(rows=np.zeros((0, 4), np.float32), numbers=np.zeros(0, np.int64))
    assert len(empty.top(np.ones(4, np.float32), 20)[0]) == 0
    for query, k in ((np.ones(3, np.float32), 1), (np.full(4, np.nan, np.float32), 1), (np.ones(4, np.float32), 0)):
        with pytest.raises(ValueError, match="give k >= 1 and finite"):
            empty.top(query, k)
    with pytest.raises(ValueError, match="give f32"):
        Vectors(rows=np.zeros((2, 4)), numbers=np.zeros(2, np.int64))
