"""Above the limit of exact search: how much of the exact list is found, and that the graph follows the index."""

import importlib

import numpy as np
import pytest

from clip_jax.search import approximate
from clip_jax.search.approximate import Approximate, check_extra, connect, open_vectors
from clip_jax.search.exact import Vectors
from clip_jax.search.store import File, Picture, Store

SIZE = 64


@pytest.fixture(autouse=True)
def _above_the_limit(monkeypatch):
    monkeypatch.setattr(approximate, "EXACT", 100)
    monkeypatch.setattr(approximate, "_ADDED", 1000)
    monkeypatch.setattr(approximate, "_SAVED", 2000)


@pytest.fixture
def indexed(tmp_path):
    pytest.importorskip("usearch", reason="needs the search extra: pip install 'clip_jax[search]'")
    store = Store(tmp_path / "I", create=True)
    yield store, store.add_model("m", "identity", SIZE)
    store.close()


def embeddings(rng, count):
    """As a model's are: most of what differs lies in a few directions."""
    directions = np.random.default_rng(9).standard_normal((16, SIZE))
    rows = rng.standard_normal((count, 16)) @ directions + 0.3 * rng.standard_normal((count, SIZE)) + 2
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def put(store, model, names, vectors):
    pictures = [
        Picture(file=File(path=name, size=1, mtime=1), thumbnail=b"", vector=vector, width=1, height=1)
        for name, vector in zip(names, vectors, strict=True)
    ]
    store.add(model, pictures, [])


def test_recall_at_20_against_exact(indexed):
    store, model = indexed
    rng = np.random.default_rng(0)
    put(store, model, [b"%d" % number for number in range(5000)], embeddings(rng, 5000))
    told = []
    connect(store, model, progress=lambda *given: told.append(given))
    assert told == [(done, 5000) for done in range(0, 5001, 1000)]
    near, exact = open_vectors(store, model), store.vectors(model)
    assert isinstance(near, Approximate)
    assert len(near) == 5000
    shares = []
    for query in embeddings(rng, 50):
        (found, cosines), (wanted, scores) = near.top(query, 20), exact.top(query, 20)
        shares.append(len({*found.tolist()} & {*wanted.tolist()}) / 20)
        own = dict(zip(wanted.tolist(), scores.tolist(), strict=True))
        assert all(own.get(n, c) == c for n, c in zip(found.tolist(), cosines.tolist(), strict=True))
        assert (np.diff(cosines) <= 0).all()
    assert np.mean(shares) > 0.99
    found, wanted = near.vector(17), exact.vector(17)
    assert found is not None
    np.testing.assert_array_equal(found, wanted)
    assert near.vector(9999) is None
    for query, k in ((np.ones(3, np.float32), 1), (np.full(SIZE, np.nan, np.float32), 1), (exact.rows[0], 0)):
        with pytest.raises(ValueError, match="give k >= 1 and finite"):
            near.top(query, k)


def test_the_graph_follows_the_index(indexed):
    store, model = indexed
    rng = np.random.default_rng(1)
    names, vectors = [b"%d" % number for number in range(150)], embeddings(rng, 170)
    put(store, model, names, vectors[:150])
    with pytest.raises(ValueError, match=r"graph of m in .* is not complete; run clip-jax search index"):
        open_vectors(store, model)
    connect(store, model)
    assert open_vectors(store, model).top(vectors[3], 1)[0].tolist() == [4]
    store.drop_all_but({*names} - {b"3"})
    put(store, model, [b"new %d" % number for number in range(20)], vectors[150:])
    with pytest.raises(ValueError, match="is not complete"):
        open_vectors(store, model)
    connect(store, model)
    near, exact = open_vectors(store, model), store.vectors(model)
    assert near.top(vectors[3], 1)[0].tolist() != [4]
    np.testing.assert_array_equal(near.top(vectors[160], 20)[0], exact.top(vectors[160], 20)[0])
    store.graph(model).write_bytes(b"no graph")
    with pytest.raises(ValueError, match="is not complete"):
        open_vectors(store, model)
    connect(store, model)
    assert len(open_vectors(store, model)) == 169
    store.drop_all_but({*names[:50]})
    connect(store, model)
    assert not store.graph(model).exists()
    assert isinstance(open_vectors(store, model), Vectors)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    check_extra(100)
    with pytest.raises(ValueError, match=r"101 pictures: above 100 an approximate .* pip install 'clip_jax\[search\]'"):
        check_extra(101)
