"""`/metrics` for Prometheus, and the count of the gateway's own requests."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.gauges.cache import Requests, exposition
from api.http.auth import bearer
from api.http.problems import documented
from api.routes.generation import Opened

router = APIRouter(tags=["operation"])
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
OTHER = "(other)"


@router.get("/metrics", response_class=Response, responses={
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."},
    **documented(),
})  # fmt: skip
async def metrics(
    request: Request, opened: Opened, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Response:
    """Runs, queues, stages, snapshots, machines and this process's requests. Needs a token, unless the operator has
    set POORWILL_API_METRICS_OPEN."""
    if not opened.settings.metrics_open:
        opened.guard.admit(credentials.credentials if credentials is not None else None)
    board = opened.estate.board
    await board.fresh()
    seen = CollectorRegistry()
    seen.register(board)
    requests: Requests = request.app.state.requests
    return Response(exposition((seen, requests.registry)), media_type=CONTENT_TYPE_LATEST)


class Counted:
    """ASGI: every request is counted under its route, never under its path: that would be a label for each run."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = time.perf_counter(), 500

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_seen)
        finally:
            method = scope["method"] if scope["method"] in METHODS else OTHER
            route = getattr(scope.get("route"), "path", OTHER)
            self._requests.count(method, route, status, time.perf_counter() - began_s)


def install(app: FastAPI) -> None:
    """Count the requests of this application."""
    app.state.requests = Requests()
    app.add_middleware(Counted, requests=app.state.requests)
