"""The file at a URL that somebody else chose, read without reaching anything that is not public.

No proxy, no cookie, no credential, no setting of the environment takes part: a pool of httpcore, new for
every hop, on a network that judges each address before it is dialled. Redirects are followed here, by
hand. Nothing is decompressed, so the bytes that are counted are the bytes that are kept.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

import httpcore
import httpx

from ..errors import NotFound, PoorwillError, Refused, SourceUnavailable, UsageError
from .addresses import PORT_MAX, AllowRule
from .guarded_network import Deadline, GuardedNetwork, Resolve, system_addresses

URL_CHARS_MAX = 8_192
REDIRECTS_MAX = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_SLOW_DOWN = (408, 425, 429)
_HEADERS = (
    (b"User-Agent", b"poorwill"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
)
_HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_HOST_CHARS_MAX = 253
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file as its server sent it.

    `media_type` is what the server calls it, without parameters ("" if nothing); `url` is where it was found
    after all redirects, without its query, which may be a credential.
    """

    body: bytes
    media_type: str
    url: str


def fetch(
    url: str,
    *,
    bytes_max: int,
    timeout_s: float,
    allow: Iterable[AllowRule] = (),
    redirects_max: int = REDIRECTS_MAX,
    resolve: Resolve = system_addresses,
    check: Callable[[], None] = lambda: None,
    ssl_context: ssl.SSLContext | None = None,
) -> Fetched:
    """The body at an http or https URL, at most `bytes_max` bytes.

    `timeout_s` is for everything together: names, redirects, a server that sends a byte at a time. `check` is
    called before every wait and at least each 0.25 s while bytes or names are awaited; what it raises ends the
    download. `ssl_context` says whose certificates count, by default those of certifi and the system.

    UsageError for what is no such URL or holds credentials. Refused for an address that is neither public nor
    allowed, a bad certificate, too many bytes or redirects, a redirect from https to http, a content encoding,
    or an answer that is none of 200, a redirect and the following. NotFound for 404, 410 and names that do not
    exist. SourceUnavailable for 408, 425, 429, 5xx and broken connections. DeadlineExceeded.
    """
    target = _checked(url)
    deadline = Deadline(timeout_s, f"the download from {_host(target)}", check)
    allowed = tuple(allow)
    for _ in range(redirects_max + 1):
        found = _get(target, GuardedNetwork(deadline, allowed, resolve), deadline, bytes_max, ssl_context)
        if isinstance(found, Fetched):
            return found
        target = _redirected(target, found)
    raise Refused(f"more than {redirects_max} redirects, now to {_host(target)}: give the URL they lead to")


def _checked(url: str) -> httpx.URL:
    """The URL in the form that is asked for, or UsageError. No message repeats it: it may hold a secret."""
    if len(url) > URL_CHARS_MAX:
        raise UsageError(f"the URL has {len(url)} characters, at most {URL_CHARS_MAX} are possible")
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise UsageError("not a URL: expected something like https://host/picture.png") from None
    if target.scheme not in ("http", "https"):
        raise UsageError(f"not a URL of the web: it begins {target.scheme[:20]!a}, expected https:// or http://")
    if target.userinfo:
        raise UsageError("the URL holds a user name or password: use a presigned URL, or none at all")
    if target.port is not None and not 1 <= target.port <= PORT_MAX:
        raise UsageError(f"the URL's port is {target.port}, expected 1 to {PORT_MAX}")
    # One dot at the end means the same host; the names in certificates do without.
    host = _host(target).removesuffix(".")
    fault = _host_fault(host)
    if fault is not None:
        raise UsageError(f"not a host in a URL: {host[:80]!a}: {fault}")
    return target.copy_with(host=host, fragment=None)


def _host(target: httpx.URL) -> str:
    """As it is asked for. Not `target.host`, which decodes IDNA and fails where there is none to decode."""
    return target.raw_host.decode("ascii")


def _host_fault(host: str) -> str | None:
    """What is wrong with a host, in words, or None: it is an IP address in its usual form, or a name."""
    if "%" in host:
        return "neither percent signs nor zones are possible"
    try:
        ip_address(host)
    except ValueError:
        pass
    else:
        return None
    if len(host) > _HOST_CHARS_MAX or not _HOST_NAME.fullmatch(host):
        return "expected a name of letters, digits, hyphens and dots, or an IP address"
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # 2130706433, 0x7f.1 and 127.1 are 127.0.0.1 to some resolvers and names to others.
        return "an IPv4 address is written as four decimal numbers"
    return None


def _redirected(target: httpx.URL, location: str) -> httpx.URL:
    host = _host(target)
    try:
        following = _checked(str(target.join(location)))
    except (httpx.InvalidURL, ValueError):
        raise Refused(f"{host} redirects to what is no URL", host=host) from None
    except UsageError as error:
        raise Refused(f"{host} redirects to a URL not followed: {error.message}", host=host) from None
    if target.scheme == "https" and following.scheme == "http":
        raise Refused(f"{host} redirects from https to http: use a URL that stays encrypted", host=host)
    return following


def _get(
    target: httpx.URL,
    network: GuardedNetwork,
    deadline: Deadline,
    bytes_max: int,
    ssl_context: ssl.SSLContext | None,
) -> Fetched | str:
    """One hop: the file, or the Location it is said to be at."""
    host = _host(target)
    asked = httpcore.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
    headers = [(b"Host", target.netloc), *_HEADERS]
    with (
        _our_errors(host, deadline),
        httpcore.ConnectionPool(ssl_context, max_connections=1, network_backend=network) as pool,
        pool.stream("GET", asked, headers=headers) as answer,
    ):
        told = httpx.Headers(answer.headers)
        if answer.status in _REDIRECTS and "location" in told:
            return told["location"]
        if answer.status != 200:
            raise _status_error(answer.status, host)
        body = _body(answer, told, host, bytes_max)
        media_type = told.get("content-type", "").partition(";")[0].strip().lower()
        return Fetched(body, media_type, str(target.copy_with(query=None)))


def _body(answer: httpcore.Response, told: httpx.Headers, host: str, bytes_max: int) -> bytes:
    encoding = told.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Refused(f"{host} answers in the encoding {encoding[:40]!a} although asked for none", host=host)
    too_large = Refused(f"the file at {host} is larger than {bytes_max} bytes: use a smaller one", host=host)
    length = told.get("content-length", "")
    if length.isdecimal() and int(length) > bytes_max:
        raise too_large
    body = bytearray()  # not a list of chunks: of tiny ones it would take many times their bytes
    for chunk in answer.iter_stream():
        if len(body) + len(chunk) > bytes_max:
            raise too_large
        body += chunk
    return bytes(body)


def _status_error(status: int, host: str) -> PoorwillError:
    if status in (404, 410):
        return NotFound(f"{host} has no such file (HTTP {status}): check the URL", host=host, status=status)
    if status >= 500 or status in _SLOW_DOWN:
        return SourceUnavailable(f"{host} answers HTTP {status}: try again later", host=host, status=status)
    return Refused(f"{host} does not hand out the file (HTTP {status}): check the URL", host=host, status=status)


@contextmanager
def _our_errors(host: str, deadline: Deadline) -> Iterator[None]:
    try:
        yield
    except httpcore.TimeoutException as error:
        deadline.left_s()  # raises if it was the deadline that ended the wait
        raise SourceUnavailable(f"{host} does not answer ({type(error).__name__}): try again", host=host) from error
    except (httpcore.NetworkError, httpcore.RemoteProtocolError) as error:
        raise SourceUnavailable(f"the connection to {host} failed ({error}): try again", host=host) from error
