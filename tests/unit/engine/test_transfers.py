"""Presigned transfers against a misbehaving server: what is retried, what is not, and that no message has a secret."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from poorwill.engine.meter import Meter
from poorwill.engine.protocol.context import Context
from poorwill.engine.transfer.buffers import BufferPool
from poorwill.engine.transfer.fetch import UrlSource
from poorwill.engine.transfer.http import ATTEMPTS, Http
from poorwill.engine.transfer.sink import UrlSink
from poorwill.errors import (
    Cancelled,
    Corrupt,
    GrantExpired,
    NotFound,
    PoorwillError,
    StoreRefused,
    StoreUnavailable,
    UploadLost,
)

OBJECT = bytes(range(256)) * 400
CONNECTIONS = 4
SECRET = "X-Amz-Signature=0123456789abcdef"
EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
Misbehaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers ranged GETs and PUTs; the server's script says how, request by request, and then it behaves."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.server.next()(self)

    def do_PUT(self) -> None:
        self.server.requests.append(self.path)
        step = self.server.next()
        if step is not drop:
            self.body = self.rfile.read(int(self.headers["Content-Length"]))
        step(self)

    def reply(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return None


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.script: list[Misbehaviour] = []
        self.stored: dict[str, bytes] = {}
        self.lock = threading.Lock()

    def next(self) -> Misbehaviour:
        with self.lock:
            return self.script.pop(0) if self.script else behave

    def url(self, name: str, generation: int = 0) -> str:
        return f"http://127.0.0.1:{self.server_port}/bucket/{name}?g={generation}&{SECRET}"

    def handle_error(self, request: object, client_address: object) -> None:
        return None


def behave(handler: Handler) -> None:
    if handler.command == "PUT":
        handler.server.stored[handler.path.partition("?")[0]] = handler.body
        handler.reply(200, ETag='"tag"')
        return
    first, last = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
    handler.reply(206, OBJECT[first : last + 1])


def drop(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def truncate(handler: Handler) -> None:
    handler.reply(206, OBJECT[:100], length=1000)
    drop(handler)


def answer(status: int, body: bytes = b"", **headers: str) -> Misbehaviour:
    return lambda handler: handler.reply(status, body, **headers)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


class Impatient(Context):
    """A request whose pauses take no time."""

    def __init__(self) -> None:
        super().__init__("test")
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.check()


class Url:
    """Gives URLs as the control side does, each fresh one of another generation."""

    def __init__(self, server: Server, name: str = "object") -> None:
        self._server, self._name, self.generation = server, name, 0

    def __call__(self, fresh: bool) -> str:
        self.generation += fresh
        return self._server.url(self._name, self.generation)


def fetch(server: Server, url: Url, context: Context | None = None) -> tuple[bytes, Meter]:
    into, meter = bytearray(1000), Meter()
    UrlSource(url, "parts/x", Http(CONNECTIONS), meter, context or Impatient()).read(5000, memoryview(into))
    return bytes(into), meter


@pytest.mark.parametrize(
    "script",
    [
        [],
        [answer(503)],
        [answer(500), answer(429), answer(502, b"<Code>SlowDown</Code>")],
        [drop],
        [truncate],
        [answer(403, EXPIRED)],
        [answer(400, b"<Code>ExpiredToken</Code>")],
    ],
)
def test_a_read_that_succeeds_in_the_end(server: Server, script: list[Misbehaviour]) -> None:
    """Whatever passes is tried again, each time with a fresh URL, and counted once."""
    server.script = list(script)
    url, context = Url(server), Impatient()
    data, meter = fetch(server, url, context)
    assert data == OBJECT[5000:6000]
    assert meter.read()["fetched_bytes"] == 1000
    assert url.generation == len(script) == len(context.pauses)
    assert [path.partition("g=")[2][0] for path in server.requests] == [str(n) for n in range(len(script) + 1)]


@pytest.mark.parametrize(
    ("misbehaviour", "error", "requests"),
    [
        (answer(404), NotFound, 1),
        (answer(403, b"<Code>AccessDenied</Code>"), StoreRefused, 1),
        (answer(416), Corrupt, 1),
        (answer(206, b"short"), Corrupt, 1),
        (answer(302, Location="http://127.0.0.1:9/elsewhere?secret"), StoreRefused, 1),
        (answer(503), StoreUnavailable, ATTEMPTS),
        (drop, StoreUnavailable, ATTEMPTS),
        (truncate, StoreUnavailable, ATTEMPTS),
        (answer(403, EXPIRED), GrantExpired, ATTEMPTS),
    ],
)
def test_a_read_that_fails(
    server: Server, misbehaviour: Misbehaviour, error: type[PoorwillError], requests: int
) -> None:
    """Permanent errors at once, transient ones after a bounded number of tries; no message holds a URL's query."""
    server.script = [misbehaviour] * 50
    with pytest.raises(error) as caught:
        fetch(server, Url(server))
    assert len(server.requests) == requests
    assert "0123456789abcdef" not in str(caught.value.to_wire()) and "X-Amz" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_refused_connection(server: Server) -> None:
    """A refused connection is transient, and its message has no URL."""
    url = "http://127.0.0.1:1/bucket/x?" + SECRET
    with pytest.raises(StoreUnavailable) as caught:
        Http(CONNECTIONS).get(lambda fresh: url, 0, memoryview(bytearray(10)), "parts/x", Impatient())
    assert "parts/x" in caught.value.message and SECRET not in caught.value.message


def test_a_compressed_answer_is_not_unpacked(server: Server) -> None:
    """A server that claims gzip cannot make the engine allocate: the bytes are taken as they are."""
    server.script = [answer(206, b"x" * 1000, **{"Content-Encoding": "gzip"})]
    assert fetch(server, Url(server))[0] == b"x" * 1000


def test_more_than_was_asked_for(server: Server) -> None:
    """A longer body is cut, and does not spoil the next request on the same connection."""
    server.script = [answer(206, OBJECT)]
    http = Http(CONNECTIONS)
    first, second = bytearray(100), bytearray(100)
    for start, into in ((0, first), (300, second)):
        http.get(lambda fresh: server.url("x"), start, memoryview(into), "parts/x", Impatient())
    assert (bytes(first), bytes(second)) == (OBJECT[:100], OBJECT[300:400])


def sink_of(server: Server, context: Context, threads: ThreadPoolExecutor, buffers: BufferPool) -> UrlSink:
    urls = {number: Url(server, f"piece-{number}") for number in range(1, 20)}
    return UrlSink(
        lambda number, fresh: urls[number](fresh), what="part 07", buffers=buffers, threads=threads,
        http=Http(CONNECTIONS), meter=Meter(), context=context,
    )  # fmt: skip


@pytest.mark.parametrize(
    "script", [[], [answer(503)], [drop, drop], [answer(403, EXPIRED)], [answer(200)], [answer(500), drop, answer(503)]]
)
def test_a_part_that_arrives(server: Server, script: list[Misbehaviour]) -> None:
    """Pieces of the agreed size, in order, tried again where they must be; every buffer comes back."""
    server.script = list(script)
    buffers = BufferPool(10_000, 3)
    with ThreadPoolExecutor(3) as threads:
        sink = sink_of(server, Impatient(), threads, buffers)
        assert sink.append(memoryview(OBJECT[:25_000])) == 0
        assert sink.append(memoryview(OBJECT[25_000:40_000])) == 25_000
        size, pieces = sink.finish(lambda: b"tail")
    assert (size, [(piece.number, piece.size) for piece in pieces]) == (
        40_004, [(1, 10_000), (2, 10_000), (3, 10_000), (4, 10_000), (5, 4)]
    )  # fmt: skip
    assert b"".join(server.stored[f"/bucket/piece-{n}"] for n in range(1, 6)) == OBJECT[:40_000] + b"tail"
    assert [buffers.acquire(0.1) for _ in range(3)]


@pytest.mark.parametrize(
    ("misbehaviour", "error"),
    [
        (answer(403, b"<Code>SignatureDoesNotMatch</Code>" + SECRET.encode()), StoreRefused),
        (answer(404, b"<Code>NoSuchUpload</Code>"), UploadLost),
        (answer(503), StoreUnavailable),
        (drop, StoreUnavailable),
    ],
)
def test_a_part_that_does_not_arrive(server: Server, misbehaviour: Misbehaviour, error: type[PoorwillError]) -> None:
    """The writer gets the error, buffers come back, and no message has a URL's query."""
    server.script = [misbehaviour] * 500
    buffers = BufferPool(10_000, 3)
    with ThreadPoolExecutor(3) as threads:
        sink = sink_of(server, Impatient(), threads, buffers)
        with pytest.raises(error) as caught:
            for at in range(0, 100_000, 10_000):
                sink.append(memoryview(OBJECT[at : at + 10_000]))
            sink.finish(lambda: b"tail")
        sink.abandon()
    assert "0123456789abcdef" not in str(caught.value.to_wire())
    assert [buffers.acquire(0.1) for _ in range(3)]


def test_backing_off(server: Server) -> None:
    """Pauses double up to a bound, with jitter; a cancelled request does not wait them out."""
    server.script = [answer(503)] * 50
    http, context = Http(CONNECTIONS, uniform=lambda: 1.0), Impatient()

    def put(context: Context) -> None:
        http.put(lambda fresh: server.url("x"), memoryview(b"x"), "parts/x", context)

    with pytest.raises(StoreUnavailable):
        put(context)
    assert context.pauses == [0.25, 0.5, 1.0, 2.0, 4.0]
    real = Context("test")
    real.cancel()
    with pytest.raises(Cancelled):
        put(real)
