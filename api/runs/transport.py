"""How the gateway's requests reach Prefect's server: sent again after short pauses, for a bounded time.

Prefect's own client waits two seconds and more before it tries again, and with retries turned off it still waits
before it gives up. SQLite's writers block each other for milliseconds, about once in a hundred new runs, which the
server answers with 503: waiting for seconds would be the slowest thing that the gateway does.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable

import certifi
import httpx
from anyio import CapacityLimiter
from prefect.settings import PREFECT_API_SSL_CERT_FILE, PREFECT_API_TLS_INSECURE_SKIP_VERIFY

from api.http.limits import within
from poorwill.retry import Backoff, Pauses

BACKOFF = Backoff(first_s=0.03, max_s=0.5)
_READS = ("/filter", "/count", "/history", "/paginate")
"""The ends of the paths where a POST to Prefect's API only reads."""
_LOST = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


class WriteGate:
    """The `places` for writes under way at once: additive increase, multiplicative decrease, as in RFC 5681.

    SQLite has one writer, and refuses a transaction that read before another one wrote: of many writes at once most
    are refused, again and again, and the more are sent, the fewer succeed. PostgreSQL takes all that the gate lets in.
    First come, first served.
    """

    def __init__(self, at_once_max: float = 8.0) -> None:
        self._at_once_max, self._limit = at_once_max, at_once_max / 2
        self.places = CapacityLimiter(int(self._limit))

    def narrow(self) -> None:
        """The server refused a write."""
        self._resize(max(1.0, self._limit / 2))

    def widen(self) -> None:
        """A write succeeded. From one place to two after two dozen."""
        self._resize(min(self._at_once_max, self._limit + 1 / 16 / self._limit))

    def _resize(self, limit: float) -> None:
        self._limit, self.places.total_tokens = limit, int(limit)


class Unanswered(httpx.TransportError):
    """No answer in time. Prefect's client does not try again after this error."""


class PatientTransport(httpx.AsyncBaseTransport):
    """Sends a request again, with short pauses, while the server is busy or cannot be reached, for `patience_s` in all.

    For requests that may be sent twice: what the gateway creates has an idempotency key. Once the server was away for
    all of that time, each request is sent once and is `Unanswered` at once, until there is an answer again: no caller
    waits for a server that is known to be away. Writes pass a gate.
    """

    def __init__(
        self, inner: httpx.AsyncBaseTransport, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner, self._patience_s, self._clock = inner, patience_s, clock
        self._is_away = False
        self._gate = WriteGate()

    @classmethod
    def of_settings(cls, patience_s: float) -> PatientTransport:
        """With the TLS settings of Prefect's client."""
        verify = ssl.create_default_context(cafile=PREFECT_API_SSL_CERT_FILE.value() or certifi.where())
        if PREFECT_API_TLS_INSECURE_SKIP_VERIFY:
            verify.check_hostname, verify.verify_mode = False, ssl.CERT_NONE
        # Idle ones are closed before Prefect's server does that, after 5 s.
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=16, keepalive_expiry=4.0)
        return cls(httpx.AsyncHTTPTransport(verify=verify, limits=limits), patience_s)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        pauses = BACKOFF.pauses(self._patience_s, clock=self._clock)
        if request.method == "GET" or request.url.path.endswith(_READS):
            return await self._answer(request, pauses)
        try:
            return await within(self._patience_s, self._write(request, pauses))
        except TimeoutError:
            raise Unanswered("too many writes wait", request=request) from None

    async def _write(self, request: httpx.Request, pauses: Pauses) -> httpx.Response:
        async with self._gate.places:
            answer = await self._answer(request, pauses)
        self._gate.widen()
        return answer

    async def _answer(self, request: httpx.Request, pauses: Pauses) -> httpx.Response:
        while True:
            try:
                answer = await self._inner.handle_async_request(request)
            except _LOST as error:
                why = type(error).__name__
                pause_s = None if self._is_away else pauses.next_s()
                self._is_away = pause_s is None
            except httpx.TimeoutException as error:
                raise Unanswered(type(error).__name__, request=request) from None
            else:
                self._is_away = False
                if answer.status_code not in (429, 502, 503):
                    return answer
                await answer.aclose()
                self._gate.narrow()
                why = f"HTTP {answer.status_code}"
                pause_s = pauses.next_s()
            if pause_s is None:
                raise Unanswered(why, request=request)
            await asyncio.sleep(pause_s)

    async def aclose(self) -> None:
        await self._inner.aclose()
