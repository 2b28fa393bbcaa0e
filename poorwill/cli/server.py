"""Requests to a Prefect server's REST API, without Prefect: each has one JSON answer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from poorwill.cli.address import Address
from poorwill.errors import NotFound, PoorwillError, ServerRefused, ServerUnavailable, UsageError
from poorwill.retry import Backoff, retry

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 30.0
ATTEMPTS = 3
BACKOFF = Backoff(first_s=0.5, attempts_max=ATTEMPTS, jitter=False)
ANSWER_BYTES_MAX = 64 << 20
REASON_CHARACTERS_MAX = 500


class Server:
    """One Prefect server.

    `ask` tries again when there is no answer: all requests made here either read, or have the same effect when sent
    twice (a run is created with an idempotency key, a cancellation sets a state).
    """

    def __init__(self, address: Address, sleep: Callable[[float], None] = time.sleep) -> None:
        self.address = address
        self._sleep = sleep
        # No redirect is followed: the password would go with it.
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S), retries=False,
            ca_certs=os.environ.get("PREFECT_API_SSL_CERT_FILE") or None,
        )  # fmt: skip
        self._headers = {"Content-Type": "application/json"}
        if address.authorization:
            self._headers["Authorization"] = address.authorization

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer. ServerUnavailable, ServerRefused, NotFound, UsageError with the server's reason."""
        return retry(lambda: self._ask_once(method, path, body), BACKOFF.pauses(), sleep=self._sleep)

    def all(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """The objects in the answer of a `/filter`."""
        found = self.ask("POST", f"{path}/filter", body)
        return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []

    def _ask_once(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        try:
            answer = self._pool.request(
                method, self.address.api_url + path, body=data, headers=self._headers, redirect=False,
                preload_content=False,
            )  # fmt: skip
            try:
                content = answer.read(ANSWER_BYTES_MAX + 1)
            except BaseException:
                answer.close()  # the rest of the answer is still in the connection
                raise
        except SSLError as error:
            raise ServerRefused(f"the TLS certificate of {self._name()} is not accepted: {error}") from None
        except (HTTPError, OSError) as error:
            raise ServerUnavailable(f"{self._name()} does not answer ({_why(error)}){self._advice()}") from None
        if len(content) > ANSWER_BYTES_MAX:
            answer.close()
            raise ServerRefused(f"{self._name()} answered {path} with more than {ANSWER_BYTES_MAX} bytes")
        answer.release_conn()
        if answer.status == 204:
            return None
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not 200 <= answer.status < 300 or found is None:
            raise self._error(answer.status, _reason(found))
        return found

    def _error(self, status: int, reason: str) -> PoorwillError:
        name = self._name()
        if status in (408, 429) or status >= 500:
            return ServerUnavailable(f"{name} answered {status}{f': {reason}' if reason else ''}")
        if status in (401, 403):
            given = "the password it was given" if self.address.authorization else "no password"
            return ServerRefused(
                f"{name} does not accept {given}: set PREFECT_API_AUTH_STRING as it was for the server"
            )
        if status == 404 and reason not in ("", "Not Found"):
            return NotFound(f"{reason} ({name})")
        if status in (400, 409, 422) and reason:
            return UsageError(reason)
        return ServerRefused(
            f"{self.address.api_url} is not the API of a Prefect server ({status}): its address ends in /api"
        )

    def _name(self) -> str:
        return f"the Prefect server at {self.address.api_url}"

    def _advice(self) -> str:
        if self.address.source == "PREFECT_API_URL":
            return ": is it running, and PREFECT_API_URL right?"
        return f": start the local stack with `poorwill up` ({self.address.source} names it)"


def _why(error: Exception) -> str:
    """Why a connection failed, in few words; urllib3's messages contain addresses of objects."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return str(cause.strerror).lower()
    return type(error).__name__.removesuffix("Error").lower()


def _reason(answer: Any) -> str:
    """The reason that FastAPI's or Prefect's handlers give, in one line."""
    if not isinstance(answer, dict):
        return ""
    detail = answer.get("detail") or answer.get("exception_detail") or answer.get("exception_message") or ""
    text = detail if isinstance(detail, str) else json.dumps(detail)
    return " ".join(text.split())[:REASON_CHARACTERS_MAX]
