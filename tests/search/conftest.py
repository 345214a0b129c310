"""Two small models, twenty pictures, and the page's server over both."""

import threading

import pytest

import clip_jax
from clip_jax.search.engine import Searcher, pick
from clip_jax.search.indexing import update
from clip_jax.search.server import Server
from clip_jax.search.store import Store
from tests.search.pictures import draw
from tests.small_teacher import write_teacher


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """(where it lies, the model), two of them."""
    folder = tmp_path_factory.mktemp("models")
    return [
        (str(path), clip_jax.load(path, batch_size=8)) for path in (write_teacher(folder / str(n), n) for n in (0, 1))
    ]


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures in three folders."""
    for number in range(20):
        draw(tmp_path / "pictures" / f"{number % 3}" / f"{number}.png", number)
    return tmp_path / "pictures"


@pytest.fixture
def server(tmp_path, folder, models):
    """Of an index of `folder` by both models, running."""
    store = Store(tmp_path / "I", create=True)
    for source, model in models:
        update(store, model, source, folder)
    searchers = [Searcher(store, pick(store, source), model) for source, model in models]
    server = Server("127.0.0.1", 0, store, searchers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
    store.close()
