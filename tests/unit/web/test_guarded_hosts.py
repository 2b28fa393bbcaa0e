"""Hosts and URLs of the guarded download: what is resolved, judged and dialled, and which are malformed."""

from __future__ import annotations

import socket
import threading

import pytest

from poorwill.errors import DeadlineExceeded, NotFound, PoorwillError, Refused, SourceUnavailable, UsageError
from poorwill.web.addresses import AllowRule
from poorwill.web.guarded_http import fetch
from tests.unit.web.downloads import AMPLE_S, PICTURE, get, names, unasked
from tests.unit.web.loopback_server import LoopbackServer, http, redirect


def test_a_name_is_resolved_once() -> None:
    """A name server that answers with an internal address the second time (DNS rebinding) is not asked again."""
    asked = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    with LoopbackServer({"/": http(PICTURE)}) as server:
        assert get(server, host="pictures.example", resolve=rebinding).body == PICTURE
    assert asked == [("pictures.example", server.port)]
    assert f"Host: pictures.example:{server.port}\r\n" in server.requests[0]


def test_a_name_is_judged_again_after_a_redirect() -> None:
    """The same host may be public at one hop and internal at the next."""
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    with LoopbackServer({"/": redirect("/next"), "/next": http(PICTURE)}) as server, pytest.raises(Refused):
        get(server, host="pictures.example", resolve=lambda host, port: next(answers))
    assert len(server.requests) == 1


@pytest.mark.parametrize("addresses", [("127.0.0.1", "10.0.0.1"), ("10.0.0.1", "127.0.0.1"), ("127.0.0.1", "::1")])
def test_every_address_has_to_be_allowed(addresses: tuple[str, ...]) -> None:
    """A name with one internal address among its addresses is refused before any is dialled."""
    with LoopbackServer({"/": http(PICTURE)}) as server, pytest.raises(Refused):
        get(server, host="mixed.example", resolve=names(*addresses))
    assert server.connections == 0


def test_the_next_address_is_tried() -> None:
    """If one of a name's addresses refuses connections."""
    with LoopbackServer({"/": http(PICTURE)}) as server:
        allow = (AllowRule.parse("127.0.0.0/8"),)
        found = get(server, host="two.example", allow=allow, resolve=names("127.0.0.2", "127.0.0.1"))
    assert found.body == PICTURE


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), NotFound),
        (socket.gaierror(socket.EAI_AGAIN, "again"), SourceUnavailable),
        (socket.gaierror(socket.EAI_FAIL, "failed"), SourceUnavailable),
        (OSError("no network"), SourceUnavailable),
        (None, NotFound),
    ],
)
def test_names_that_do_not_resolve(fault: OSError | None, error: type[PoorwillError]) -> None:
    """One that does not exist is permanent; a name server that does not answer is not."""

    def resolve(host: str, port: int) -> list[str]:
        if fault is not None:
            raise fault
        return []

    with pytest.raises(error, match=r"nowhere\.example"):
        fetch("http://nowhere.example/", bytes_max=1, timeout_s=AMPLE_S, resolve=resolve)


def test_a_silent_name_server() -> None:
    """Is not waited for beyond the deadline, although a resolver takes no timeout."""
    answered = threading.Event()

    def silent(host: str, port: int) -> list[str]:
        answered.wait(5)
        return ["10.0.0.1"]

    with pytest.raises(DeadlineExceeded, match=r"slow\.example"):
        fetch("http://slow.example/", bytes_max=1, timeout_s=0.1, resolve=silent)
    answered.set()


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",  # 127.0.0.1 as one number
        "0x7f000001",
        "0x7f.1",
        "0x7f.0.0.0x1",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.01",
        "127.1",
        "127.0.1",
        "127.0.0.1.1",
        "256.0.0.1",
        "127.0.0.0x",
        "127.0.0.1.",
        "127.0.0.1..",
        "１２７.0.0.1",
        "127。0。0。1",
        "①②⑦.⓪.⓪.①",
        "127.0.0.1%00.example",
        "127.0.0.1%2e",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[::1%25lo]",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[v1.x]",
        "[::1",
        "::1",
        "",
        ".",
        "..",
        ".example",
        "a..example",
        "a example",
        "a\\b.example",
        "a,b.example",
        f"{'a' * 64}.example",
        ".".join(["a" * 63] * 4),
        "ex\u00adample\ud800",
        "-".join(["ß"] * 80),
    ],
    ids=ascii,
)
def test_odd_hosts(host: str) -> None:
    """An address in an unusual form is refused, or judged as that address; it is never resolved."""
    with pytest.raises((UsageError, Refused)) as caught:
        fetch(f"http://{host}/?secret", bytes_max=1, timeout_s=AMPLE_S, resolve=unasked)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["[fe80::1%25eth0]", "[fe80::1%eth0]", "[2606:4700::1111%1]"])
def test_a_zone_makes_a_url_malformed(host: str) -> None:
    """Even if a rule allows the address."""
    with pytest.raises(UsageError, match="zones"):
        fetch(f"http://{host}/", bytes_max=1, timeout_s=AMPLE_S, allow=(AllowRule.parse("::/0"),), resolve=unasked)


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("Pictures.EXAMPLE", "pictures.example"),
        ("pictures.example.", "pictures.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--0.example", "xn--0.example"),  # nothing that IDNA can decode
    ],
)
def test_hosts_are_normalized(host: str, asked: str) -> None:
    """Lower case, no dot at the end, IDNA: the same name is resolved and sent to the server."""
    resolved = []

    def resolve(name: str, port: int) -> list[str]:
        resolved.append(name)
        return ["127.0.0.1"]

    with LoopbackServer({"/": http(PICTURE)}) as server:
        get(server, host=host, resolve=resolve)
    assert resolved == [asked]
    assert f"Host: {asked}:{server.port}\r\n" in server.requests[0]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "picture.png",
        "//host.example/",
        "http:///path",
        "http:host.example",
        "file:///etc/passwd",
        "ftp://host.example/",
        "gopher://host.example/",
        "http://host.example:0/",
        "http://host.example:-80/",
        "http://host.example:65536/",
        "http://host.example:80:80/",
        "http://host.example/a\r\nHost: other",
        "http://host.example\\@127.0.0.1/",
        f"http://host.example/{'a' * 8192}",
        "http://\ud800/",
    ],
    ids=lambda url: ascii(url[:40]),
)
def test_malformed_urls_are_usage_errors(url: str) -> None:
    """Before a name is resolved."""
    with pytest.raises(UsageError):
        fetch(url, bytes_max=1, timeout_s=AMPLE_S, resolve=unasked)


@pytest.mark.parametrize("userinfo", ["hunter2", "user:hunter2", ":hunter2", "user%40hunter2", "a@b:hunter2"])
def test_credentials_are_refused(userinfo: str) -> None:
    """And not repeated."""
    with pytest.raises(UsageError, match="password") as caught:
        fetch(f"https://{userinfo}@host.example/", bytes_max=1, timeout_s=AMPLE_S, resolve=unasked)
    assert "hunter2" not in str(caught.value)
