"""Presigned requests of the engine: one connection pool, errors in our own types, no URL in any message.

An expired URL has no code of its own: Amazon answers AccessDenied with "Request has expired", others
ExpiredRequest, or that the clocks differ. Codes: the S3 API reference, "Error responses".
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import urllib3

from poorwill.engine.protocol.context import Context
from poorwill.errors import (
    Corrupt,
    GrantExpired,
    NotFound,
    PoorwillError,
    StoreRefused,
    StoreUnavailable,
    Unsupported,
    UploadLost,
)
from poorwill.retry import Backoff, is_transient_status, retry

ATTEMPTS = 6
BACKOFF = Backoff(first_s=0.25, max_s=10.0, attempts_max=ATTEMPTS)
_TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)
ANSWER_BYTES_MAX = 16 << 10  # of an error's body
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,60})\s*</Code>")
_TRANSIENT = ("SlowDown", "RequestTimeout", "Throttling", "OperationAborted")
_EXPIRED = ("ExpiredRequest", "ExpiredToken", "RequestExpired", "AccessExpired")
_EXPIRED_HINTS = (b"expired", b"Expired", b"difference between the request time")  # the last: rclone


class Http:
    """PUT and ranged GET on presigned URLs. Thread-safe."""

    def __init__(self, connections: int, uniform: Callable[[], float] = random.random) -> None:
        """uniform: numbers from 0 to 1, by which pauses differ."""
        self._uniform = uniform
        self._pool = urllib3.PoolManager(num_pools=4, maxsize=connections, block=True, retries=False, timeout=_TIMEOUT)

    def put(self, url_of: Callable[[bool], str], body: memoryview, what: str, context: Context) -> str:
        """Upload `body`, uncopied; returns the ETag. Tried again as `get` is. UploadLost if the store forgot it."""
        pauses = BACKOFF.pauses(uniform=self._uniform)

        def attempt() -> str:
            length = {"Content-Length": str(len(body))}
            response = self._request("PUT", url_of(pauses.attempts > 1), what, body=body, headers=length)
            response.read()
            response.release_conn()
            tag = response.headers.get("ETag")
            if not tag:
                raise StoreUnavailable(f"{what}: the store accepted it without an ETag")
            return str(tag)

        # An upload that is forgotten does not come back: the part needs a new one.
        return retry(attempt, pauses, when=lambda error: not isinstance(error, UploadLost), sleep=context.pause)

    def get(self, url_of: Callable[[bool], str], start: int, into: memoryview, what: str, context: Context) -> None:
        """Fill `into` with the object's bytes from `start`. What may pass is tried again, `ATTEMPTS` times in all, each
        time with another URL, from url_of(fresh)."""
        pauses = BACKOFF.pauses(uniform=self._uniform)
        retry(lambda: self._get(url_of(pauses.attempts > 1), start, into, what), pauses, sleep=context.pause)

    def _get(self, url: str, start: int, into: memoryview, what: str) -> None:
        headers = {"Range": f"bytes={start}-{start + len(into) - 1}", "Accept-Encoding": "identity"}
        response = self._request("GET", url, what, headers=headers)
        at = 0
        try:
            while at < len(into):
                got = response.readinto(into[at:])
                if not got:
                    break
                at += got
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreUnavailable(f"{what}: the connection broke: {type(error).__name__}") from None
        finally:
            response.close() if at < len(into) else response.release_conn()
        if at < len(into):
            raise Corrupt(f"{what}: ends after {start + at} bytes, expected {start + len(into)}")

    def _request(
        self, method: str, url: str, what: str, *, body: memoryview | None = None, headers: dict[str, str]
    ) -> urllib3.BaseHTTPResponse:
        try:
            # urllib3 sends a memoryview as it is, without a copy; its annotations do not say so.
            sent: Any = body
            # Nothing is decoded: a body sent compressed would be decompressed without a bound.
            response = self._pool.request(
                method, url, body=sent, headers=headers, preload_content=False, decode_content=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreUnavailable(f"{what}: the store did not answer: {type(error).__name__}") from None
        if response.status in (200, 206):
            return response
        status, text = response.status, response.read(ANSWER_BYTES_MAX)
        response.release_conn()
        refusal = grant_error(url, status, text)
        if isinstance(refusal, NotFound) and method == "PUT":
            # Stores forget uploads (a restart, a lifecycle rule): the part needs a new one, not another try.
            raise UploadLost(f"{what}: {refusal.message}")
        raise refusal


def grant_error(url: str, status: int, body: bytes = b"") -> PoorwillError:
    """The error for an answer to a presigned URL that is not a success. `body` is the beginning of the answer."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    place = f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"  # without the query, which is the secret
    body = body[:ANSWER_BYTES_MAX]
    found = _CODE.search(body)
    code = found[1].decode("ascii") if found else "no code"
    answered = f"{place}: answered {status} ({code})"
    if code in _EXPIRED or (status in (400, 403) and any(hint in body for hint in _EXPIRED_HINTS)):
        return GrantExpired(f"{place}: the permission to use it has expired ({code}): ask for a new one")
    if code == "NoSuchUpload":
        return NotFound(f"{place}: there is no such unfinished upload")
    if code == "InvalidObjectState":
        return Unsupported(f"{place}: it is in an archive class: have the store bring it back (restore-object)")
    if code == "NoSuchBucket":
        return StoreRefused(f"{place}: there is no such bucket")
    if status == 404:
        return NotFound(f"{place}: there is no such object")
    if status == 416:
        return Corrupt(f"{place}: the object ends before the bytes asked for")
    if code in _TRANSIENT or is_transient_status(status):
        return StoreUnavailable(answered)
    return StoreRefused(f"{answered}: check the credentials with which the control side signs, and its clock")
