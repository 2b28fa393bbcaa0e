"""Presigned requests of the engine: one connection pool, errors in our own types, no URL in any message."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import urllib3

from poorwill.engine.protocol.context import Context
from poorwill.errors import Corrupt, NotFound, StoreUnavailable, UploadLost
from poorwill.retry import Backoff, retry
from poorwill.store.grant_errors import ANSWER_BYTES_MAX, grant_error

ATTEMPTS = 6
BACKOFF = Backoff(first_s=0.25, max_s=10.0, attempts_max=ATTEMPTS)
_TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)


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
        """Fill `into` with the object's bytes from `start`.

        What may pass is tried again, `ATTEMPTS` times in all, each time with another URL: url_of(fresh) gives it.
        """
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
