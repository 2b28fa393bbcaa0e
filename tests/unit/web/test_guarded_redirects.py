"""Redirects of the guarded download: each hop is judged like the first."""

from __future__ import annotations

import socket
import threading

import pytest

from poorwill.errors import DeadlineExceeded, Refused
from tests.unit.web.downloads import PICTURE, get, unasked
from tests.unit.web.loopback_server import LoopbackServer, http, redirect


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int) -> None:
    """Of every kind, relative ones too; no cookie goes along."""
    hops = {"/a/": redirect("b?q=1", status, set_cookie="c=1"), "/a/b": redirect("/c"), "/c": http(PICTURE)}
    with LoopbackServer(hops) as server:
        found = get(server, "/a/")
    assert (found.body, found.url) == (PICTURE, server.url("/c"))
    assert not any("cookie" in request.lower() or "referer" in request.lower() for request in server.requests)


def test_a_redirect_to_another_port_of_the_same_host() -> None:
    """Is judged: one server is allowed, and the other one gets no request."""
    with (
        LoopbackServer({"/": http(b"internal")}) as internal,
        LoopbackServer({"/": redirect(internal.url("/"))}) as server,
        pytest.raises(Refused, match="loopback"),
    ):
        get(server)
    assert internal.connections == 0


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "//192.168.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "http://user:hunter2@127.0.0.1/",
        "file:///etc/passwd",
        "data:image/png;base64,hunter2",
        "http://[",
        "http://",
    ],
)
def test_redirects_to_what_is_refused(location: str) -> None:
    """Refused at every hop, but never a UsageError: it is the server's fault."""
    with LoopbackServer({"/": redirect(location)}) as server, pytest.raises(Refused) as caught:
        get(server, resolve=unasked)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("redirects_max", [0, 1, 5])
def test_a_redirect_loop(redirects_max: int) -> None:
    """Ends after `redirects_max` hops."""
    with LoopbackServer({"/": redirect("/")}) as server, pytest.raises(Refused, match="redirects"):
        get(server, redirects_max=redirects_max)
    assert len(server.requests) == redirects_max + 1


def test_a_chain_of_slow_redirects() -> None:
    """The deadline is for all hops together."""

    def late(connection: socket.socket, stopping: threading.Event) -> None:
        stopping.wait(0.1)
        connection.sendall(redirect("/"))

    with LoopbackServer({"/": late}) as server, pytest.raises(DeadlineExceeded):
        get(server, timeout_s=0.35, redirects_max=30)
    assert 1 <= len(server.requests) <= 4
