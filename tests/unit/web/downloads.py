"""The guarded download as the tests ask for it: of a server on the loopback, which a rule allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from poorwill.web.guarded_http import Fetched, fetch
from tests.unit.web.loopback_server import LoopbackServer

BYTES_MAX = 64 << 10
AMPLE_S = 30.0
PICTURE = b"\x89PNG and so on"


def get(server: LoopbackServer, path: str = "/", host: str = "127.0.0.1", **options: Any) -> Fetched:
    """What the server has at `path`, allowed unless `options` say otherwise."""
    return fetch(
        server.url(path, host), **{"bytes_max": BYTES_MAX, "timeout_s": AMPLE_S, "allow": (server.rule,), **options}
    )


def names(*addresses: str) -> Callable[[str, int], list[str]]:
    """A resolver that knows these addresses for every name."""
    return lambda host, port: list(addresses)


def unasked(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was resolved")
