"""The guarded download over TLS: the dialled address is pinned, the name still counts."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from poorwill.errors import DeadlineExceeded, Refused, SourceUnavailable
from poorwill.web.guarded_http import Fetched, fetch
from poorwill.web.guarded_network import CHECK_S
from tests.unit.web.certificates import Authority
from tests.unit.web.downloads import names
from tests.unit.web.loopback_server import LoopbackServer, http, redirect, slowly

HOST = "pictures.example"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def get(server: LoopbackServer, context: ssl.SSLContext | None, host: str = HOST, **options: Any) -> Fetched:
    return fetch(
        server.url(host=host, scheme="https"),
        **{"bytes_max": 1000, "timeout_s": 30, "allow": (server.rule,), "resolve": names("127.0.0.1"), **options},
        ssl_context=context,
    )


def test_name_and_sni_stay(authority: Authority) -> None:
    """An address is dialled, but SNI, Host and the certificate's check use the URL's name."""
    heard = []
    tls = authority.server(HOST)
    tls.sni_callback = lambda connection, name, context: heard.append(name)
    with LoopbackServer({"/": http(b"x")}, tls) as server:
        assert get(server, authority.client).body == b"x"
        assert get(server, authority.client, HOST + ".").body == b"x"
    assert heard == [HOST, HOST]
    assert f"Host: {HOST}:{server.port}\r\n" in server.requests[0]


def test_a_certificate_for_another_name(authority: Authority) -> None:
    """Refused, without another attempt; the same for an address, which the certificate does not name."""
    with LoopbackServer({"/": http(b"x")}, authority.server("other.example")) as server:
        for host in (HOST, "127.0.0.1"):
            with pytest.raises(Refused, match="certificate"):
                get(server, authority.client, host)
    assert server.requests == []


def test_an_unknown_authority(authority: Authority, tmp_path: Path) -> None:
    """Neither by default nor with a context that knows another authority."""
    with LoopbackServer({"/": http(b"x")}, authority.server(HOST)) as server:
        for context in (None, Authority(tmp_path).client):
            with pytest.raises(Refused, match="certificate"):
                get(server, context)
    assert server.requests == []


def test_no_redirect_to_plain_http(authority: Authority) -> None:
    """From https to http; the other server gets no request."""
    with LoopbackServer({"/": http(b"x")}) as plain:
        answers = {"/": redirect(plain.url(host=HOST))}
        with LoopbackServer(answers, authority.server(HOST)) as server, pytest.raises(Refused, match="encrypted"):
            get(server, authority.client, allow=(server.rule, plain.rule))
    assert plain.connections == 0


def test_redirects_that_stay_encrypted(authority: Authority) -> None:
    """Also up from http."""
    with LoopbackServer({"/": redirect("/b"), "/b": http(b"x")}, authority.server(HOST)) as server:
        assert get(server, authority.client).url == server.url("/b", HOST, "https")
        with LoopbackServer({"/": redirect(server.url(host=HOST, scheme="https"))}) as plain:
            found = fetch(
                plain.url(),
                bytes_max=100,
                timeout_s=30,
                allow=(server.rule, plain.rule),
                resolve=names("127.0.0.1"),
                ssl_context=authority.client,
            )
    assert found.body == b"x"


def test_a_server_without_tls(authority: Authority) -> None:
    """No fault of the certificate: transient, like every other broken connection."""
    greeting = b"220 mail.example ESMTP\r\n"
    with LoopbackServer({}, greeting=greeting) as server, pytest.raises(SourceUnavailable):
        get(server, authority.client)


def test_a_server_that_sends_a_byte_at_a_time_over_tls(authority: Authority) -> None:
    """The deadline stays when a connection becomes encrypted."""
    answers = {"/": slowly(b"HTTP/1.1 200 OK\r\n\r\n", b"a")}
    with LoopbackServer(answers, authority.server(HOST)) as server, pytest.raises(DeadlineExceeded):
        get(server, authority.client, timeout_s=0.3)


def test_a_slow_server_over_tls(authority: Authority) -> None:
    """Reads are short, with a look at the deadline between them, and lose nothing."""

    def late(connection: socket.socket, stopping: threading.Event) -> None:
        stopping.wait(CHECK_S * 1.5)
        connection.sendall(http(b"late"))

    with LoopbackServer({"/": late}, authority.server(HOST)) as server:
        assert get(server, authority.client).body == b"late"
