"""Ports of this host's loopback interface, and what answers on them."""

from __future__ import annotations

import socket
import urllib.request
from http.client import HTTPResponse
from typing import cast

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows nothing of this host's ports


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on that port now; connections of an earlier one that fade out do not count."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        return False
    return True


def get(url: str, timeout_s: float) -> HTTPResponse:
    """The answer to a GET. OSError; urllib.error.HTTPError, which is one, for a status of 400 or more."""
    return cast(HTTPResponse, _OPENER.open(url, timeout=timeout_s))
