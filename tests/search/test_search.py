"""A folder indexed, changed, damaged, killed and served: what is found, what is refused."""

import base64
import http.client
import json
import os
import socket
import sys
import threading
import time

import jsonschema
import numpy as np
import pytest
from PIL import Image

import clip_jax
from clip_jax import __main__ as entry
from clip_jax.search import schema
from clip_jax.search.engine import Query, Searcher, pick
from clip_jax.search.indexing import update
from clip_jax.search.server import Server, allowed_host, read_query
from clip_jax.search.store import Store, shown
from tests.small_teacher import write_teacher


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [
        (str(path), clip_jax.load(path, batch_size=8)) for path in (write_teacher(folder / str(n), n) for n in (0, 1))
    ]


def draw(path, seed, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path, "PNG")


@pytest.fixture
def folder(tmp_path):
    for number in range(20):
        draw(tmp_path / "pictures" / f"{number % 3}" / f"{number}.png", number)
    return tmp_path / "pictures"


def names(store):
    return {store.about(number)[0] for number in store.vectors(store.models()[0]).numbers.tolist()}


def test_only_what_changed_is_embedded(tmp_path, folder, models):
    store = Store(tmp_path / "I", create=True)
    source, model = models[0]
    assert update(store, model, source, folder).added == 20
    assert update(store, model, source, folder).added == 0
    draw(folder / "0" / "0.png", 99, (50, 50))
    (folder / "1" / "1.png").unlink()
    draw(folder / "new.png", 5)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    done = update(store, model, source, folder)
    assert (done.pictures, done.added, done.gone, done.damaged) == (20, 2, 1, 2)
    reasons = [json.loads(line) for line in (tmp_path / "I" / "damaged.jsonl").read_text().splitlines()]
    assert [reason["file"] for reason in reasons] == ["broken.png", "empty.jpg"]
    assert "1/1.png" not in names(store)
    rows = store.vectors(store.models()[0])
    best, scores = rows.top(model.encode_image(str(folder / "0" / "0.png"))[0], 1)
    assert store.about(int(best[0])) == ("0/0.png", 50, 50)
    assert scores[0] > 0.9999


def test_after_a_kill_it_goes_on(tmp_path, folder, models):
    store = Store(tmp_path / "I", create=True)

    def die(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update(store, models[0][1], models[0][0], folder, progress=die)
    store.close()
    store = Store(tmp_path / "I")
    assert store.count() == 8
    assert update(store, models[0][1], models[0][0], folder).added == 12


def test_hostile_names_and_links(tmp_path, models):
    folder = tmp_path / "pictures"
    hostile = [b"<img src=x onerror=alert(1)>.png", b'a\nb".png', b"\xff\xfe.png", b"l" * 250 + b".png"]
    draw(tmp_path / "outside" / "secret.png", 1)
    folder.mkdir()
    for name in hostile:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write((tmp_path / "outside" / "secret.png").read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "outside" / "secret.png")
    (folder / "links").symlink_to(tmp_path / "outside")
    os.mkfifo(folder / "pipe.png")
    store = Store(tmp_path / "I", create=True)
    assert update(store, models[0][1], models[0][0], folder).pictures == 4
    assert names(store) == {shown(name) for name in hostile}
    assert shown(b"a\nb\xff") == "a\ufffdb\ufffd"


def test_an_index_of_another_folder_or_model_is_refused(tmp_path, folder, models):
    store = Store(tmp_path / "I", create=True)
    (tmp_path / "other").mkdir()
    (source, model), (second, other) = models
    assert update(store, model, source, folder).added == 20
    with pytest.raises(ValueError, match=r"is an index of .*pictures, not of .*other"):
        update(store, model, source, tmp_path / "other")
    with pytest.raises(ValueError, match="was made with other weights"):
        update(store, other, source, folder)
    with pytest.raises(ValueError, match="was made with other weights"):
        Searcher(store, store.models()[0], other)
    with pytest.raises(ValueError, match="run clip-jax search index --model"):
        pick(store, second)
    assert update(store, other, second, folder).added == 20
    draw(folder / "later.png", 77)
    assert update(store, model, source, folder).added == 1
    with pytest.raises(ValueError, match="20 of 21 pictures have embeddings"):
        Searcher(store, pick(store, second), other)


@pytest.fixture
def server(tmp_path, folder, models):
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


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply, content


def post(server, **query):
    reply, content = ask(server, "POST", "/api/search", json.dumps(query), **{"Content-Type": "application/json"})
    return reply.status, json.loads(content)


def test_the_api_answers_by_its_schema(server, folder):
    document = json.loads(ask(server, "GET", "/openapi.json")[1])
    answers = document["paths"]["/api/search"]["post"]["responses"]
    picture = base64.b64encode((folder / "2" / "5.png").read_bytes()).decode()
    for query in ({"text": "a red house without windows"}, {"picture": picture}, {"text": "red", "like": 3}):
        code, found = post(server, **query)
        assert code == 200
        jsonschema.validate(found, answers["200"]["content"]["application/json"]["schema"])
        assert len(found["models"]) == 2
        assert found["overlap"] == 1  # there are only 20
    assert post(server, picture=picture)[1]["models"][0]["results"][0]["name"] == "2/5.png"
    for query in (
        {},
        {"text": "x" * 501},
        {"like": 999},
        {"like": "1"},
        {"picture": "%"},
        {"picture": "AAAA"},
        {"path": "/"},
    ):
        code, found = post(server, **query)
        assert code == 400, query
        jsonschema.validate(found, schema.ERROR)


def test_what_is_refused(server):
    reply, _ = ask(server, "GET", "/")
    assert reply.status == 200
    assert "default-src 'none'" in reply.getheader("Content-Security-Policy")
    assert reply.getheader("X-Content-Type-Options") == "nosniff"
    assert ask(server, "GET", "/", Host="evil.example")[0].status == 403
    for path in (
        "/../index.sqlite",
        "/thumbnails/../1",
        "/thumbnails/999",
        "/thumbnails/%2e%2e",
        "/search.py",
        "//etc/passwd",
    ):
        assert ask(server, "GET", path)[0].status == 404, path
    json_type = {"Content-Type": "application/json"}
    assert ask(server, "POST", "/api/search", "{}", **{"Content-Type": "text/plain"})[0].status == 400
    assert ask(server, "POST", "/api/search", None, **json_type, **{"Content-Length": str(10**10)})[0].status == 413
    assert ask(server, "POST", "/api/search", b"[" * 100_000, **json_type)[0].status == 400
    bomb = b"P6 100000 100000 255\n"
    code, found = post(server, picture=base64.b64encode(bomb).decode())
    assert code == 400
    assert "pixels" in found["error"]


def test_slow_senders_hold_up_nobody(server):
    post(server, text="red")  # compiled
    slow = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(6)]
    for one in slow:
        one.sendall(b"POST /api/search HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        one.sendall(b"Content-Length: 100\r\n\r\n")
    started = time.monotonic()
    assert post(server, text="red")[0] == 200
    assert time.monotonic() - started < 5  # they would keep their turns for ten seconds
    for one in slow:
        one.close()


def test_it_listens_on_ipv6(tmp_path):
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    store = Store(tmp_path / "I", create=True)
    server = Server("::1", 0, store, [])
    assert server.url == f"http://[::1]:{server.server_port}/"
    server.server_close()
    store.close()


def test_hosts():
    for good in ("localhost:8000", "127.0.0.1", "[::1]:8000", "192.168.1.2:80", "box:1"):
        assert allowed_host(good, "box")
    for bad in ("", "evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example"):
        assert not allowed_host(bad, "127.0.0.1")
    assert read_query(b'{"text": "\\ud800"}') == Query(text="?")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give index FOLDER or serve I"),
        (("index", "x"), "needs --model and --out"),
        (("index", "absent", "--model", "m", "--out", "I"), "absent is no folder"),
        (("index", "x", "--model", "m", "--out", "I", "--port", "1"), "search index takes no --port"),
        (("serve", "absent"), "absent is no search index"),
        (("serve", "I", "--out", "J"), "search serve takes no --out"),
        (("serve", "I", "--port", "99999"), "port"),
    ],
)
def test_bad_flags(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["clip-jax", "search", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_indexes_an_empty_folder(monkeypatch, capsys, tmp_path, models):
    (tmp_path / "none").mkdir()
    words = [
        "clip-jax",
        "search",
        "index",
        "--model",
        models[0][0],
        str(tmp_path / "none"),
        "--out",
        str(tmp_path / "I"),
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as exit_info:
        entry.main()
    assert exit_info.value.code == 0
    assert "0 pictures" in capsys.readouterr().out
    (tmp_path / "I" / "index.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 30)
    with pytest.raises(ValueError, match="cannot be read as an index"):
        Store(tmp_path / "I")
