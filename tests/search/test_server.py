"""The HTTP API: answers by its schema, its limits, and what it refuses."""

import base64
import http.client
import json
import socket
import time

import jsonschema
import numpy as np
import pytest

from clip_jax.search import engine, schema
from clip_jax.search.engine import Query, Searcher, answer, pick
from clip_jax.search.server import Rates, Server, allowed_host, read_query
from clip_jax.search.store import Store


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


def test_too_many_queries_of_one_address_are_refused(server):
    now = [0.0]
    rates = server.rates = Rates(lambda: now[0])
    assert [rates.take("a") for _ in range(61)] == [True] * 60 + [False]
    assert rates.take("b")
    now[0] = 0.5
    assert [rates.take("a") for _ in range(11)] == [True] * 10 + [False]
    for number in range(2000):
        rates.take(f"address {number}")
        now[0] += 1
    assert len(rates._left) < 1010
    while rates.take("127.0.0.1"):
        pass
    code, found = post(server, text="red")
    assert code == 429
    jsonschema.validate(found, schema.ERROR)
    now[0] += 1
    assert post(server, text="red")[0] == 200


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("red", "red", ()),
        ("a house without windows", "a house", ("windows",)),
        ("Without cats", "", ("cats",)),
        ("a cat without a hat, and without fur", "a cat", ("a hat", "fur")),
        ("a cat withoutfur", "a cat withoutfur", ()),
    ],
)
def test_two_models_side_by_side_are_each_as_alone_and_exact(monkeypatch, server, models, text, wanted, unwanted):
    monkeypatch.setattr(engine, "TOP", 7)
    store, lists = server.store, []
    found = answer(store, server.searchers, Query(text=text))
    for place, (source, model) in enumerate(models):
        entry = pick(store, source)
        alone = answer(store, [Searcher(store, entry, model)], Query(text=text))
        assert found["models"][place] == alone["models"][0]
        assert (alone["overlap"], alone["both"]) == (None, [])
        query = model.encode_text([wanted])[0] if wanted else np.zeros(model.embed_dim, np.float32)
        query = query - sum(0.5 * model.encode_text([words])[0] for words in unwanted)
        vectors = store.vectors(entry)
        cosines = vectors.rows.astype(np.float64) @ (query / np.linalg.norm(query))
        order = np.argsort(-cosines, kind="stable")[:7]
        results = found["models"][place]["results"]
        np.testing.assert_allclose([one["cosine"] for one in results], cosines[order], atol=1e-6)
        lists.append([one["number"] for one in results])
        assert lists[-1] == vectors.numbers[order].tolist()
    assert lists[0] != lists[1]
    assert found["both"] == sorted({*lists[0]} & {*lists[1]})
    assert found["overlap"] == len(found["both"]) / 7
