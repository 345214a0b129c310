"""The local page and the JSON API, by the standard library's server: few routes, limits before work, no path to a file."""

import base64
import binascii
import importlib.resources
import ipaddress
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from clip_jax.data.source import BadSample
from clip_jax.search import schema
from clip_jax.search.engine import Query, Searcher, answer
from clip_jax.search.store import Store

_AT_ONCE = 4  # queries; more wait
_PATIENCE = 10  # seconds that a query waits for its turn, and a connection for its next bytes
_CONNECTIONS = 64
_PER_SECOND, _BURST = 20, 60  # queries from one address: a fast typist needs 7 a second
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PAGES = {
    "/": ("search.html", "text/html; charset=utf-8"),
    "/search.css": ("search.css", "text/css; charset=utf-8"),
    "/search.js": ("search.js", "text/javascript; charset=utf-8"),
}


class Rates:
    """At most _BURST queries of an address at once, and _PER_SECOND on and on. May be shared among threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._lock = clock, threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}  # by address: (queries left, when that was)

    def take(self, address: str) -> bool:
        """Whether one more is allowed now."""
        with self._lock:
            now = self._clock()
            left, then = self._left.get(address, (float(_BURST), now))
            left = min(_BURST, left + (now - then) * _PER_SECOND)
            if len(self._left) > 1000:  # who has not asked for so long has all of them again
                self._left = {a: was for a, was in self._left.items() if now - was[1] < _BURST / _PER_SECOND}
            self._left[address] = (left - 1 if left >= 1 else left, now)
            return left >= 1


class Server(ThreadingHTTPServer):
    """Serves until `shutdown`; port 0 takes any free one (`url` tells)."""

    daemon_threads = True

    def __init__(self, host: str, port: int, store: Store, searchers: list[Searcher]):
        self.host, self.store, self.searchers = host, store, searchers
        self.turns = threading.BoundedSemaphore(_AT_ONCE)
        self.rates, self._closing = Rates(), False
        self._places = threading.BoundedSemaphore(_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.server_port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for it, or, past _CONNECTIONS, an end."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent for whoever hung up: a page does so with each letter typed; and for whom the server's end cut off."""
        if not (self._closing or isinstance(sys.exception(), ConnectionError | TimeoutError)):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        """Takes no more; what is being answered may fail."""
        self._closing = True
        super().server_close()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Gives the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()


def allowed_host(header: str, host: str) -> bool:
    """Whether a Host header names this machine by address, as localhost, or as --host does: a name that someone else's DNS
    has bound to this address does not."""
    name = re.sub(r":\d+$", "", header).strip("[]").lower()
    if name in ("localhost", host.lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "clip-jax", ""

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if not self._known_host():
            return
        if path in _PAGES:
            name, kind = _PAGES[path]
            self._send(200, importlib.resources.files("clip_jax").joinpath("assets", name).read_bytes(), kind)
        elif path == "/openapi.json":
            self._json(200, schema.OPENAPI)
        elif (found := re.fullmatch(r"/thumbnails/(\d{1,15})", path, re.ASCII)) and (
            jpeg := self.server.store.thumbnail(int(found[1]))
        ):
            self._send(200, jpeg, "image/jpeg")
        else:
            self._json(404, {"error": "nothing here; /openapi.json has what there is"})

    def do_POST(self) -> None:
        if not self._known_host():
            return
        if self.path != "/api/search":
            return self._json(404, {"error": "nothing here; POST /api/search"})
        if not self.server.rates.take(self.client_address[0]):
            return self._json(429, {"error": f"more than {_PER_SECOND} queries a second; try again in a second"})
        if self.headers.get("Content-Type", "").split(";")[0].strip() != "application/json":
            return self._json(400, {"error": "Content-Type must be application/json"})  # other sites cannot send it
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,12}", length, re.ASCII):
            return self._json(400, {"error": "Content-Length is missing"})
        if int(length) > schema.BODY:
            return self._json(413, {"error": f"{length} bytes; a query has at most {schema.BODY}"})
        body = self.rfile.read(int(length))  # before its turn: who sends slowly holds up nobody else
        if not self.server.turns.acquire(timeout=_PATIENCE):
            return self._json(503, {"error": "too many queries at once; try again"})
        try:
            code, found = 200, answer(self.server.store, self.server.searchers, read_query(body))
        except BadSample as error:
            code, found = 400, {"error": f"the picture cannot be used: {error.reason}"}
        except ValueError as error:
            code, found = 400, {"error": str(error)}
        finally:
            self.server.turns.release()
        self._json(code, found)

    def _known_host(self) -> bool:
        if allowed_host(self.headers.get("Host", ""), self.server.host):
            return True
        self._json(
            403, {"error": "the Host header names another machine; open the page by the address that was printed"}
        )
        return False

    def _json(self, code: int, content: Any) -> None:
        self._send(code, json.dumps(content).encode(), "application/json")

    def _send(self, code: int, content: bytes, kind: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: queries are nobody's business."""


def read_query(body: bytes) -> Query:
    """A request's JSON, checked. Raises ValueError that says what is allowed."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the body is no JSON") from error
    if not isinstance(given, dict) or set(given) - {"text", "picture", "like"}:
        raise ValueError("give an object with text, picture (base64) or like (a number)")
    text, picture, like = given.get("text", ""), given.get("picture"), given.get("like")
    if not isinstance(text, str) or len(text) > schema.TEXT:
        raise ValueError(f"text must be a string of at most {schema.TEXT} characters")
    if like is not None and (not isinstance(like, int) or isinstance(like, bool) or not 1 <= like < 2**62):
        raise ValueError("like must be the number of a picture, from 1")
    if picture is not None:
        try:
            picture = base64.b64decode(picture, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise ValueError("picture is no base64") from error
        if len(picture) > schema.PICTURE:
            raise ValueError(f"the picture has {len(picture)} bytes; at most {schema.PICTURE}")
    return Query(text=text.encode("utf-8", "replace").decode(), picture=picture, like=like)
