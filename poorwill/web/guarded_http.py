"""Fetches a file from a stranger's URL, or posts a message to it, without reaching anything that is not public.

It uses no proxy, cookie, credential or setting of the environment: only a new pool of httpcore for every hop, on a
network that checks each address before it connects. Redirects are followed here. Nothing is decompressed, so that the
bytes that are counted are the bytes that are kept.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpcore
import httpx

from poorwill.errors import NotFound, PoorwillError, Refused, SourceUnavailable, UsageError
from poorwill.web.addresses import AllowRule
from poorwill.web.guarded_network import Deadline, GuardedNetwork, Resolve, system_addresses
from poorwill.web.urls import checked, host_of

POST_BYTES_MAX = 1 << 20
ANSWER_BYTES_MAX = 64 << 10
"""More of the answer to a message is not read."""
_REDIRECTS = (301, 302, 303, 307, 308)
_SLOW_DOWN = (408, 425, 429)
_HEADERS = (
    (b"User-Agent", b"poorwill"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file as its server sent it. `url` is where it was found after all redirects, without the query, which may be a
    credential."""

    body: bytes
    url: str


def fetch(
    url: str,
    *,
    bytes_max: int,
    timeout_s: float,
    allow: Iterable[AllowRule] = (),
    redirects_max: int = 5,
    resolve: Resolve = system_addresses,
    check: Callable[[], None] = lambda: None,
    ssl_context: ssl.SSLContext | None = None,
) -> Fetched:
    """The body at an http or https URL, at most `bytes_max` bytes.

    `timeout_s` covers everything: names, redirects, a server that sends a byte at a time. `check` is called before
    every wait, and at least each 0.25 s while bytes or names are awaited; an exception of it ends the download.
    `ssl_context` says which certificates are trusted, by default those of certifi and the system.

    UsageError for a malformed URL, or one that holds credentials. Refused for an address that is neither public nor
    allowed, a bad certificate, too many bytes or redirects, a redirect from https to http, a content encoding, or any
    status that is not named here. NotFound for 404, 410 and names that do not exist. SourceUnavailable for 408, 425,
    429, 5xx and broken connections. DeadlineExceeded.
    """
    target = checked(url)
    deadline = Deadline(timeout_s, f"the download from {host_of(target)}", check)
    allowed = tuple(allow)
    for _ in range(redirects_max + 1):
        found = _get(target, GuardedNetwork(deadline, allowed, resolve), bytes_max, ssl_context)
        if isinstance(found, Fetched):
            return found
        target = _redirected(target, found)
    raise Refused(f"more than {redirects_max} redirects, now to {host_of(target)}: give the URL they lead to")


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    allow: Iterable[AllowRule] = (),
    resolve: Resolve = system_addresses,
    ssl_context: ssl.SSLContext | None = None,
) -> int:
    """Send `body`, at most POST_BYTES_MAX, to an http or https URL. Returns the status, from 200 to 299.

    A request that failed may have been received: the caller may send it again. Redirects are not followed. The body of
    the answer is ignored. The other arguments are those of `fetch`.

    UsageError for a malformed URL. Refused for an address that is neither public nor allowed, a bad certificate, and
    any status that is not named here; NotFound for 404, 410 and names that do not exist; both have the fact `status`.
    SourceUnavailable for 408, 425, 429, 5xx and broken connections; its fact `retry_after` is that header.
    DeadlineExceeded.
    """
    target = checked(url)
    host = host_of(target)
    if len(body) > POST_BYTES_MAX:
        raise UsageError(f"the message to {host} has {len(body)} bytes, at most {POST_BYTES_MAX} are possible")
    deadline = Deadline(timeout_s, f"the message to {host}", lambda: None)
    sent = [*_HEADERS, (b"Content-Length", str(len(body)).encode())]
    sent += [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
    network = GuardedNetwork(deadline, allow, resolve)
    with _exchange("POST", target, sent, body, network, ssl_context) as answer:
        if not 200 <= answer.status < 300:
            raise _status_error(answer, host, "takes no messages there", "does not take the message")
        read = 0
        for chunk in answer.iter_stream():  # so that the server is not cut off while it answers
            read += len(chunk)
            if read > ANSWER_BYTES_MAX:
                break
        return int(answer.status)


def _redirected(target: httpx.URL, location: str) -> httpx.URL:
    host = host_of(target)
    try:
        following = checked(str(target.join(location)))
    except (httpx.InvalidURL, ValueError):
        raise Refused(f"{host} redirects to a malformed URL", host=host) from None
    except UsageError as error:
        raise Refused(f"{host} redirects to a URL not followed: {error.message}", host=host) from None
    if target.scheme == "https" and following.scheme == "http":
        raise Refused(f"{host} redirects from https to http: use a URL that stays encrypted", host=host)
    return following


def _get(
    target: httpx.URL, network: GuardedNetwork, bytes_max: int, ssl_context: ssl.SSLContext | None
) -> Fetched | str:
    """One hop: the file, or the Location to which it redirects."""
    host = host_of(target)
    with _exchange("GET", target, _HEADERS, None, network, ssl_context) as answer:
        headers = httpx.Headers(answer.headers)
        if answer.status in _REDIRECTS and "location" in headers:
            return headers["location"]
        if answer.status != 200:
            raise _status_error(answer, host, "has no such file", "does not hand out the file")
        return Fetched(_body(answer, headers, host, bytes_max), str(target.copy_with(query=None)))


@contextmanager
def _exchange(
    method: str,
    target: httpx.URL,
    headers: Iterable[tuple[bytes, bytes]],
    content: bytes | None,
    network: GuardedNetwork,
    ssl_context: ssl.SSLContext | None,
) -> Iterator[httpcore.Response]:
    """One request on its own connection; the body of the answer is not read yet. Raises only Poorwill's errors."""
    asked = httpcore.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
    host = host_of(target)
    try:
        with (
            httpcore.ConnectionPool(ssl_context, max_connections=1, network_backend=network) as pool,
            pool.stream(method, asked, headers=[(b"Host", target.netloc), *headers], content=content) as answer,
        ):
            yield answer
    except httpcore.TimeoutException as error:
        network.deadline.left_s()  # raises if it was the deadline that ended the wait
        raise SourceUnavailable(f"{host} does not answer ({type(error).__name__}): try again", host=host) from error
    except (httpcore.NetworkError, httpcore.RemoteProtocolError) as error:
        raise SourceUnavailable(f"the connection to {host} failed ({error}): try again", host=host) from error


def _body(answer: httpcore.Response, headers: httpx.Headers, host: str, bytes_max: int) -> bytes:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Refused(f"{host} answers in the encoding {encoding[:40]!a} although asked for none", host=host)
    too_large = Refused(f"the file at {host} is larger than {bytes_max} bytes: use a smaller one", host=host)
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > bytes_max:
        raise too_large
    body = bytearray()  # not a list of chunks: of tiny ones it would take many times their bytes
    for chunk in answer.iter_stream():
        if len(body) + len(chunk) > bytes_max:
            raise too_large
        body += chunk
    return bytes(body)


def _status_error(answer: httpcore.Response, host: str, missing: str, refused: str) -> PoorwillError:
    status, facts = answer.status, {"host": host, "status": answer.status}
    if status in (404, 410):
        return NotFound(f"{host} {missing} (HTTP {status}): check the URL", **facts)
    if status >= 500 or status in _SLOW_DOWN:
        retry_after = httpx.Headers(answer.headers).get("retry-after", "")[:64]
        return SourceUnavailable(f"{host} answers HTTP {status}: try again later", **facts, retry_after=retry_after)
    if status in _REDIRECTS:
        return Refused(f"{host} redirects (HTTP {status}) and is not followed: give the URL it leads to", **facts)
    return Refused(f"{host} {refused} (HTTP {status}): check the URL, and what it expects", **facts)
