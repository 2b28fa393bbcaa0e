"""The outermost layer of the gateway: a request's id, its line in the log, security headers, and unexpected errors."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import Problem

log = logging.getLogger(__name__)
REQUEST_ID = "X-Request-ID"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
current_request: ContextVar[str] = ContextVar("current_request", default="-")


class RequestMiddleware:
    """ASGI. A request id of the caller is kept if it is harmless, else one is made; it is in the answer's header, in
    problems, and in every line that is logged meanwhile (`RequestIdFilter`). Neither query nor headers are logged."""

    def __init__(self, app: ASGIApp, ended: Callable[[Scope, int, float], None]) -> None:
        """`ended` is called after each HTTP request, with its status and the seconds that it took."""
        self._app, self._ended = app, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = state["request_id"] = given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
        began_s, status = time.perf_counter(), 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                _mark(MutableHeaders(scope=message), scope["path"], request_id)
            await send(message)

        token = current_request.set(request_id)
        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            log.exception("%s %s failed", scope.get("method", "WS"), _path(scope))
            if status or scope["type"] != "http":
                raise
            detail = "an unexpected error: its traceback is in the gateway's log"
            problem = Problem("internal", detail, status=500)
            await problem.response(request_id)(scope, receive, send_marked)
        finally:
            took_s = time.perf_counter() - began_s
            method, caller = scope.get("method", "WS"), state.get("caller", "-")
            log.info("%s %s %d %.1f ms %s", method, _path(scope), status, took_s * 1000, caller)
            current_request.reset(token)
            if scope["type"] == "http":
                self._ended(scope, status or 500, took_s)


class RequestIdFilter(logging.Filter):
    """Gives every record `request_id`, for a handler's format."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = current_request.get()
        return True


def _path(scope: Scope) -> str:
    return ascii(scope["path"][:200])[1:-1]


def _mark(headers: MutableHeaders, path: str, request_id: str) -> None:
    headers[REQUEST_ID] = request_id
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    if not path.startswith(("/docs", "/redoc")):  # they load scripts; all else is data
        headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
