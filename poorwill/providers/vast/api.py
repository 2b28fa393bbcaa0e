"""Requests to vast.ai's HTTP API: bounded, repeated where that is safe, failures in our own types.

Source: the OpenAPI documents and the page "Rate limits and errors" at https://docs.vast.ai/api-reference (read in
November 2026). Rate limits are a least interval of 1 to 5 seconds between requests to one endpoint; 429 is often
plain text and has no Retry-After. An unknown API key is answered with 401, 403 or (by the search) 404.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3 import exceptions as http

from poorwill.errors import ProviderRefused, ProviderUnavailable, UsageError
from poorwill.retry import Backoff, retry, retry_after_s

ANSWER_BYTES_MAX = 8 << 20
ATTEMPTS_MAX = 6
BACKOFF = Backoff(first_s=1.0, max_s=15.0, attempts_max=ATTEMPTS_MAX)
RETRY_AFTER_MAX_S = 60.0
TOTAL_S = 120.0
"""How long one exchange is tried for; an attempt that is under way is not interrupted."""
_TIMEOUT = urllib3.Timeout(connect=10.0, read=30.0)
_ANSWER_S = 60.0
_KEY = re.compile(r"[\x21-\x7e]{8,512}")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_NEVER_SENT = (http.NewConnectionError, http.ConnectTimeoutError)
_TEXT_MAX = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that another attempt would not change. Its content is not trusted."""

    status: int
    fields: Mapping[str, Any]  # empty if the body was not a JSON object

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300 and self.fields.get("success") is not False

    @property
    def text(self) -> str:
        """The error's code and message, if there are any."""
        said = (self.fields.get(name) for name in ("error", "msg", "message", "detail"))
        return ": ".join(part.strip() for part in said if isinstance(part, str) and part.strip())

    @property
    def denied(self) -> bool:
        """Whether the key was not accepted. A 404 does not mean that something is missing then."""
        return self.status in (401, 403) or "user key" in self.text.lower()


class VastApi:
    """The API of one account. Thread-safe. The key is sent in a header to `base_url` alone: redirects are not followed.

    Every call raises ProviderUnavailable without an answer, and ProviderRefused as `refusal` says. No message holds the
    key. `sleep`, `clock` (s) and `uniform` (a number in [0, 1)) can be replaced.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        if _KEY.fullmatch(api_key) is None:
            raise UsageError("the vast.ai API key is malformed: expected 8 to 512 printable characters without spaces")
        self._api_key = api_key
        self.base_url = _checked_url(base_url)
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=4, timeout=_TIMEOUT)
        self._sleep = sleep
        self._clock = clock
        self._uniform = uniform

    def __repr__(self) -> str:
        return f"VastApi({self.base_url!r})"

    def ask(self, method: str, path: str, **request: Any) -> Mapping[str, Any]:
        """The fields of a successful answer. Takes the arguments of `exchange`. ProviderRefused."""
        reply = self.exchange(method, path, **request)
        if not reply.ok:
            raise self.refusal(reply, f"{method} {path}")
        return reply.fields

    def exchange(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        repeatable: bool = True,
        within_s: float = TOTAL_S,
    ) -> Reply:
        """Send a request until there is an answer: again after 429, 5xx and lost connections, for `within_s`.

        If not `repeatable`, only while it is certain that the request was not carried out. ProviderUnavailable.
        """
        pauses = BACKOFF.pauses(within_s, clock=self._clock, uniform=self._uniform)
        try:
            return retry(
                lambda: self._attempt(method, path, body, query), pauses, sleep=self._sleep,
                when=lambda error: repeatable or not error.facts["carried_out"],
                least_s=lambda error: float(error.facts.get("retry_after_s", 0.0)),
            )  # fmt: skip
        except ProviderUnavailable as error:
            raise ProviderUnavailable(
                f"vast.ai: {method} {path}: {error.message}, after {pauses.attempts} tries: try again later"
            ) from None

    def refusal(self, reply: Reply, what: str) -> ProviderRefused:
        """The error for an answer that is not a success; it says what to do."""
        # The server's text might repeat the key.
        said = reply.text.replace(self._api_key, "***")[:_TEXT_MAX]
        why = f"vast.ai: {what}: {reply.status} {said}".rstrip()
        if reply.status == 402 or "credit" in said.lower():
            return ProviderRefused(f"{why}: add credit at https://cloud.vast.ai/billing/")
        if reply.denied:
            return ProviderRefused(
                f"{why}: the API key is wrong, has expired or may not do that: check it, and its permissions, at "
                "https://cloud.vast.ai/manage-keys/"
            )
        if 300 <= reply.status < 400:
            return ProviderRefused(f"{why}: it redirects, which is not followed: correct the address {self.base_url}")
        return ProviderRefused(why)

    def _attempt(
        self, method: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, str] | None
    ) -> Reply:
        """An answer. ProviderUnavailable; its fact `carried_out` says whether the request may have been."""
        headers = {
            "Authorization": f"Bearer {self._api_key}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # decompression would have no bound
            "User-Agent": "poorwill",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = f"{self.base_url}{path}" + (f"?{urlencode(query)}" if query else "")
        sent = None if body is None else json.dumps(body, allow_nan=False).encode()
        try:
            response = self._pool.request(
                method, url, body=sent, headers=headers, redirect=False, retries=False,
                preload_content=False, decode_content=False,
            )  # fmt: skip
            data = self._read(response)
        except _NEVER_SENT as error:
            raise ProviderUnavailable(f"it cannot be reached ({type(error).__name__})", carried_out=False) from None
        except (http.HTTPError, OSError) as error:
            raise ProviderUnavailable(f"the connection broke ({type(error).__name__})", carried_out=True) from None
        return _judged(response.status, _json_object(data), response.headers.get("Retry-After", ""))

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        ends, data, whole = self._clock() + _ANSWER_S, bytearray(), False
        try:
            while piece := response.read1(1 << 16):
                data += piece
                if len(data) > ANSWER_BYTES_MAX:
                    raise ProviderUnavailable(f"its answer has more than {ANSWER_BYTES_MAX} bytes", carried_out=True)
                if self._clock() > ends:
                    raise ProviderUnavailable(f"its answer took more than {_ANSWER_S:.0f} s", carried_out=True)
            whole = True
        finally:
            response.release_conn() if whole else response.close()
        return bytes(data)


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        extra = parts.query or parts.fragment or parts.username or parts.password
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        if safe and parts.hostname and not extra and parts.port != 0:
            return url.rstrip("/")
    except ValueError:
        pass  # a malformed port or address
    raise UsageError("the address of vast.ai's API: expected https://host, which the API key may be sent to")


def _judged(status: int, fields: Mapping[str, Any] | None, retry_after: str) -> Reply:
    asked_s = min(retry_after_s(retry_after, time.time()), RETRY_AFTER_MAX_S)
    if status == 429:
        # Rate limits are checked first: the request was not carried out.
        raise ProviderUnavailable("429, it asks to slow down", carried_out=False, retry_after_s=asked_s)
    if status == 408 or status >= 500:
        raise ProviderUnavailable(f"it answered {status}", carried_out=True, retry_after_s=asked_s)
    if 200 <= status < 300 and fields is None:
        raise ProviderUnavailable(f"it answered {status} with something that is not its JSON", carried_out=True)
    return Reply(status, fields or {})


def _json_object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
