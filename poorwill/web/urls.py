"""URLs as users write them: normalized, or refused before anything is resolved."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

import httpx

from poorwill.errors import Refused, UsageError
from poorwill.web.addresses import PORT_MAX, AllowRule, refusal

URL_CHARS_MAX = 8_192
_HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_PORTS = {"http": 80, "https": 443}
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")


def checked(url: str) -> httpx.URL:
    """The normalized URL, or UsageError. No message repeats it: it may hold a secret."""
    if len(url) > URL_CHARS_MAX:
        raise UsageError(f"the URL has {len(url)} characters, at most {URL_CHARS_MAX} are possible")
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise UsageError("the URL is malformed: expected something like https://host/path") from None
    if target.scheme not in ("http", "https"):
        raise UsageError(f"the URL begins with {target.scheme[:20]!a}: expected https:// or http://")
    if target.userinfo:
        raise UsageError("the URL holds a user name or password: use a presigned URL, or none at all")
    if target.port is not None and not 1 <= target.port <= PORT_MAX:
        raise UsageError(f"the URL's port is {target.port}, expected 1 to {PORT_MAX}")
    # A dot at the end means the same host; the names in certificates do not have it.
    host = host_of(target).removesuffix(".")
    fault = _host_fault(host)
    if fault is not None:
        raise UsageError(f"the URL has the host {host[:80]!a}: {fault}")
    return target.copy_with(host=host, fragment=None)


def judged(url: str, allow: Iterable[AllowRule] = ()) -> httpx.URL:
    """As `checked`; Refused for an address that may not be reached. Names are judged when they are resolved."""
    target = checked(url)
    try:
        address = ip_address(host_of(target).strip("[]"))
    except ValueError:
        return target
    why = refusal(address, target.port or _PORTS[target.scheme], allow)
    if why is not None:
        raise Refused(f"{host_of(target)} may not be reached: it is {why}; use a public server")
    return target


def host_of(target: httpx.URL) -> str:
    """The host as it is sent. Not `target.host`, which decodes IDNA and fails for other names."""
    return target.raw_host.decode("ascii")


def _host_fault(host: str) -> str | None:
    """What is wrong with a host; None for a name or an IP address in its usual form."""
    if "%" in host:
        return "it cannot have percent signs or zones"
    try:
        ip_address(host)
    except ValueError:
        pass
    else:
        return None
    if len(host) > 253 or not _HOST_NAME.fullmatch(host):
        return "expected a name of letters, digits, hyphens and dots, or an IP address"
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # 2130706433, 0x7f.1 and 127.1 are 127.0.0.1 to some resolvers and names to others.
        return "an IPv4 address is written as four decimal numbers"
    return None
