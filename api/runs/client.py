"""Prefect's API as the gateway uses it: every call ends in bounded time, and an absent server is `unavailable`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any, TypeVar

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.settings import PREFECT_API_URL

from api.http.limits import within
from api.http.problems import Problem, unavailable
from api.runs.transport import PatientTransport
from poorwill.errors import UsageError

log = logging.getLogger(__name__)
T = TypeVar("T")


def open_client(timeout_s: float) -> PrefectClient:
    """A client of the server that PREFECT_API_URL names. UsageError where it names none: Prefect would start one."""
    if not PREFECT_API_URL.value():
        raise UsageError("PREFECT_API_URL is not set: set it to the API of a Prefect server, http://host:4200/api")
    transport = PatientTransport.of_settings(timeout_s)
    return get_client(httpx_settings={"transport": transport, "timeout": httpx.Timeout(timeout_s)})


class Prefect:
    """The Prefect server behind `client`. Each call ends within `timeout_s`.

    Within it, requests are sent again (`transport.py`), so that a busy moment or a short restart goes unnoticed.
    """

    def __init__(self, client: PrefectClient, timeout_s: float) -> None:
        self.client, self._timeout_s = client, timeout_s

    async def ask(self, call: Awaitable[T]) -> T:
        """What the call answers. Problem `unavailable` if there is no answer, or one that says so.

        ObjectNotFound and httpx.HTTPStatusError of other answers pass.
        """
        try:
            return await within(self._timeout_s + 1.0, call)  # a call may hang elsewhere than in the transport
        except (TimeoutError, httpx.TransportError) as error:
            log.warning("no answer of the Prefect server: %s", error or type(error).__name__)
            raise unavailable("the Prefect server does not answer") from None
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status in (401, 403):
                log.error("the Prefect server refuses the gateway's credentials: set PREFECT_API_AUTH_STRING")
                raise Problem("internal", "the Prefect server refuses the gateway's credentials") from None
            if status < 500 and status not in (408, 429):
                raise
            log.warning("the Prefect server answered %d", status)
            raise unavailable(f"the Prefect server answered {status}") from None

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON that a POST answers; as `ask`."""
        answer = await self.ask(self.client.request("POST", path, json=body))  # type: ignore[arg-type]
        return answer.json()
