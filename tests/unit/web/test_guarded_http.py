"""The guarded download against real servers on the loopback, well-behaved and not."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from poorwill.errors import Cancelled, DeadlineExceeded, NotFound, PoorwillError, Refused, SourceUnavailable
from poorwill.web.addresses import AllowRule
from poorwill.web.guarded_http import Fetched, fetch
from tests.unit.web.downloads import AMPLE_S, BYTES_MAX, PICTURE, get, names
from tests.unit.web.loopback_server import LoopbackServer, http, slowly

SOON_S = 4.0  # for what should take a fraction of a second


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that is bound and does not listen: connections are refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_a_file() -> None:
    """Its bytes, its type without parameters, and its URL without the query, which may be a credential."""
    with LoopbackServer({"/a%20b.png": http(PICTURE, content_type="Image/PNG; q=1")}) as server:
        found = get(server, "/a b.png?X-Amz-Signature=secret#part")
    assert found == Fetched(PICTURE, server.url("/a%20b.png"))
    assert "/a%20b.png?X-Amz-Signature=secret HTTP/1.1" in server.requests[0]


def test_only_the_necessary_headers_are_sent() -> None:
    """No encoding is asked for."""
    with LoopbackServer({"/": http(PICTURE)}) as server:
        get(server)
    sent = dict(line.split(": ", 1) for line in server.requests[0].strip().split("\r\n")[1:])
    assert sent == {
        "Host": f"127.0.0.1:{server.port}",
        "User-Agent": "poorwill",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


def test_the_loopback_is_not_public() -> None:
    """Without a rule no connection is made; a rule for another port does not help."""
    with LoopbackServer({"/": http(PICTURE)}) as server:
        for allow in ((), (AllowRule.parse("127.0.0.1:1"),)):
            with pytest.raises(Refused, match="loopback"):
                get(server, allow=allow)
        with pytest.raises(Refused, match="loopback"):
            fetch(f"http://localhost:{server.port}/", bytes_max=BYTES_MAX, timeout_s=AMPLE_S)
    assert server.connections == 0


def test_an_internal_address_is_not_in_the_message() -> None:
    """A stranger does not learn where an internal name leads."""
    with pytest.raises(Refused, match="private") as caught:
        fetch("http://db.internal/", bytes_max=1, timeout_s=AMPLE_S, resolve=names("10.11.12.13"))
    assert "10.11" not in str(caught.value)


def test_the_largest_body() -> None:
    """`bytes_max` bytes are accepted, with or without Content-Length; one more is not."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    with LoopbackServer(
        {"/told": http(b"abcdef"), "/chunked": chunked, "/to-the-end": b"HTTP/1.0 200 OK\r\n\r\nabcdef"}
    ) as server:
        for path in server.answers:
            assert get(server, path, bytes_max=6).body == b"abcdef"
            with pytest.raises(Refused, match="larger than 5 bytes"):
                get(server, path, bytes_max=5)


def test_a_body_that_is_announced_as_too_large_is_not_read() -> None:
    """Refused by its Content-Length."""

    def announces(connection: socket.socket, stopping: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        stopping.wait(5)

    with LoopbackServer({"/": announces}) as server, pytest.raises(Refused, match="larger"):
        get(server, timeout_s=4)


def test_an_endless_body() -> None:
    """Is not read beyond the limit."""
    sent = []

    def endless(connection: socket.socket, stopping: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not stopping.is_set() and len(sent) < 10_000:
            connection.sendall(bytes(64 << 10))
            sent.append(1)

    with LoopbackServer({"/": endless}) as server, pytest.raises(Refused, match="larger"):
        get(server, bytes_max=1 << 20)
    assert len(sent) < 10_000


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
        (b"HTTP/1.1 200 OK\r\nX-Header: ", b"a"),
        (b"HTTP/1.1 100 Continue\r\n\r\n",),
        (b"",),
    ],
    ids=["body", "header", "continue", "silence"],
)
def test_a_server_that_sends_a_byte_at_a_time(pieces: tuple[bytes, ...]) -> None:
    """Before or in the body, or nothing at all: the deadline covers everything, not the time between two bytes."""
    began_s = time.monotonic()
    with LoopbackServer({"/": slowly(*pieces)}) as server, pytest.raises(DeadlineExceeded, match=r"127\.0\.0\.1"):
        get(server, timeout_s=0.25)
    assert time.monotonic() - began_s < SOON_S


def test_a_handshake_that_does_not_end() -> None:
    """TLS has the same deadline."""
    began_s = time.monotonic()
    with LoopbackServer({}) as server, pytest.raises(DeadlineExceeded):
        # The server waits for the end of a request's header, which a TLS hello does not hold.
        fetch(server.url(scheme="https"), bytes_max=1, timeout_s=0.2, allow=(server.rule,))
    assert time.monotonic() - began_s < SOON_S


@pytest.mark.parametrize(
    "answer",
    [
        http(b"abc", content_length="4"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
    ],
    ids=["short", "chunk", "negative", "two-lengths", "header", "other-protocol", "nothing", "endless-header"],
)
def test_a_broken_answer(answer: bytes) -> None:
    """A transient error, however much of the file arrived."""
    with LoopbackServer({"/": answer}) as server, pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1"):
        get(server)


_BOMB = gzip.compress(bytes(16 << 20), 9)
assert len(_BOMB) < BYTES_MAX


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip"])
def test_an_encoding_is_refused(encoding: str) -> None:
    """16 MiB of zeros in less than the limit: nothing is decompressed."""
    with (
        LoopbackServer({"/": http(_BOMB, content_encoding=encoding)}) as server,
        pytest.raises(Refused, match="encoding"),
    ):
        get(server)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (204, Refused),
        (206, Refused),
        (300, Refused),
        (302, Refused),  # without a Location
        (304, Refused),
        (400, Refused),
        (401, Refused),
        (403, Refused),
        (404, NotFound),
        (408, SourceUnavailable),
        (410, NotFound),
        (418, Refused),
        (425, SourceUnavailable),
        (429, SourceUnavailable),
        (500, SourceUnavailable),
        (502, SourceUnavailable),
        (503, SourceUnavailable),
    ],
)
def test_statuses(status: int, error: type[PoorwillError]) -> None:
    """Each has one meaning, and the message names host and status but not the query."""
    with LoopbackServer({"/": http(status=status)}) as server, pytest.raises(PoorwillError) as caught:
        get(server, "/?secret")
    assert type(caught.value) is error
    assert "127.0.0.1" in str(caught.value) and str(status) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_nobody_listens() -> None:
    """A refused connection is transient."""
    with closed_port() as port, pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1"):
        fetch(f"http://127.0.0.1:{port}/", bytes_max=1, timeout_s=AMPLE_S, allow=(AllowRule.parse("127.0.0.1"),))


def test_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment would fetch what is refused here: it is not used."""
    with LoopbackServer({"/": http(b"from the proxy")}) as proxy, LoopbackServer({"/": http(PICTURE)}) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        assert get(server).body == PICTURE
    assert proxy.connections == 0


def test_it_stops_while_a_server_is_silent() -> None:
    """An exception of `check` ends the wait for bytes, long before the deadline."""
    waiting = threading.Event()

    def silent(connection: socket.socket, stopping: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nabc")
        waiting.set()
        stopping.wait(10)

    def check() -> None:
        if waiting.is_set():
            raise Cancelled("enough")

    with LoopbackServer({"/": silent}) as server, pytest.raises(Cancelled, match="enough"):
        get(server, check=check, timeout_s=8)


def test_it_stops_before_it_starts() -> None:
    """A download that is cancelled already sends no request."""

    def check() -> None:
        raise Cancelled("enough")

    with LoopbackServer({"/": http(PICTURE)}) as server, pytest.raises(Cancelled):
        get(server, check=check)
    assert server.connections == 0
