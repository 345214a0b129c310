"""Exact search against sorting all cosines: the same lists, whether int8 goes first or not."""

import importlib.util

import numpy as np
import pytest

from clip_jax.search import exact
from clip_jax.search.coarse import quantize
from clip_jax.search.exact import Vectors

needs_kernel = pytest.mark.skipif(
    importlib.util.find_spec("numkong") is None, reason="needs the search extra: pip install 'clip_jax[search]'"
)


@pytest.fixture(params=["float32", pytest.param("int8", marks=needs_kernel)])
def first_pass(request, monkeypatch):
    """Small sets searched as large ones are, in many blocks."""
    monkeypatch.setattr(exact, "_MANY", 1 if request.param == "int8" else 2**62)
    monkeypatch.setattr(exact, "_BLOCK", 64)
    return request.param


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def sets():
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((3000, 96))
    yield "plain", unit(plain), unit(rng.standard_normal((5, 96)))
    yield "in a narrow cone", unit(plain + 30), unit(rng.standard_normal((5, 96)))
    loud = np.where(np.arange(96) == 7, 40, 1.0)
    yield "one loud dimension", unit(plain * loud), unit(rng.standard_normal((5, 96)) * loud)
    twice = unit(np.repeat(plain[:40], 75, axis=0))
    yield "many copies", twice, twice[:3]
    near = unit(plain[0] + 1e-6 * plain)
    yield "nearly the same", near, near[:3]
    yield "away from the query", -unit(np.abs(plain)), unit(np.abs(rng.standard_normal((3, 96))))
    yield "nothing", np.zeros((50, 96), np.float32), unit(rng.standard_normal((2, 96)))


@pytest.mark.parametrize(("rows", "queries"), [pytest.param(*rest, id=name) for name, *rest in sets()])
def test_lists_are_those_of_the_plain_product(first_pass, rows, queries):
    vectors = Vectors(rows=rows, numbers=np.arange(len(rows)) + 7)
    assert (vectors._coarse is None) == (first_pass == "float32")
    for query in (*queries, np.zeros(96, np.float32), queries[0] * np.float32(1e-3)):
        cosines = (rows.astype(np.float64) * query).sum(axis=1)
        order = np.argsort(-cosines, kind="stable")[:20]
        found, scores = vectors.top(query, 20)
        np.testing.assert_array_equal(found, order + 7)
        np.testing.assert_array_equal(scores, cosines[order].astype(np.float32))


def test_float32_gives_the_same_list_where_no_two_are_closer_than_it_can_tell(first_pass):
    rng = np.random.default_rng(1)
    rows, query = unit(rng.standard_normal((3000, 512))), unit(rng.standard_normal(512))
    found, _ = Vectors(rows=rows, numbers=np.arange(3000)).top(query, 20)
    np.testing.assert_array_equal(found, np.argsort(-(rows @ query))[:20])


def test_any_k_and_equal_scores(first_pass):
    rng = np.random.default_rng(0)
    rows = rng.integers(-2, 3, (500, 8)).astype(np.float32)  # many equal scores
    vectors = Vectors(rows=rows, numbers=np.arange(500))
    for k in (1, 20, 499, 500, 1000):
        query = rng.integers(-2, 3, 8).astype(np.float32)
        found, scores = vectors.top(query, k)
        order = np.argsort(-(rows @ query), kind="stable")[:k]
        np.testing.assert_array_equal(found, order)
        np.testing.assert_array_equal(scores, (rows @ query)[order])


@needs_kernel
def test_the_bound_of_the_first_pass_holds_and_is_narrow():
    for _, rows, queries in sets():
        coarse = quantize(rows)
        for query in queries:
            about, far = coarse.scores(query)
            wrong = np.abs(about - rows.astype(np.float64) @ query)
            assert (wrong <= far).all()
            assert far.max() < 0.05


def test_a_row_by_its_number():
    vectors = Vectors(rows=np.eye(3, dtype=np.float32), numbers=np.array([2, 5, 9]))
    found = vectors.vector(5)
    assert found is not None
    np.testing.assert_array_equal(found, [0, 1, 0])
    assert [vectors.vector(number) for number in (0, 4, 10)] == [None] * 3


def test_an_empty_index_and_bad_queries(first_pass):
    empty = Vectors(rows=np.zeros((0, 4), np.float32), numbers=np.zeros(0, np.int64))
    assert len(empty.top(np.ones(4, np.float32), 20)[0]) == 0
    for query, k in ((np.ones(3, np.float32), 1), (np.full(4, np.nan, np.float32), 1), (np.ones(4, np.float32), 0)):
        with pytest.raises(ValueError, match="give k >= 1 and finite"):
            empty.top(query, k)
    with pytest.raises(ValueError, match="give f32"):
        Vectors(rows=np.zeros((2, 4)), numbers=np.zeros(2, np.int64))
