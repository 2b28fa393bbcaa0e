"""A run as it goes: its view each time it changes, as server-sent events or over a WebSocket, until it is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Response, WebSocket, WebSocketDisconnect
from starlette.types import Receive, Scope, Send

from api.deps import SharedGateway, caller
from api.http.limits import within
from api.http.problems import Problem, documented, problem_of
from api.routes.generation import RUN_ID
from api.runs.run_view import RunView
from api.runs.watching import Follower, Watchers
from poorwill.errors import PoorwillError

router = APIRouter(tags=["streams"])
STREAM_S_MAX = 3600.0
"""A stream ends after this time; a client that wants more of it connects again."""
SEND_TIMEOUT_S = 30.0
"""A listener that takes nothing for this time is gone."""
LAST_EVENT = "end"
SUBPROTOCOL = "bearer"
HEARD_MAX = 100
NORMAL, POLICY, TRY_AGAIN = 1000, 1008, 1013


@router.get(
    "/runs/{id}/events",
    dependencies=[Depends(caller)],
    response_class=Response,
    responses={
        200: {
            "description": "Events `run`, each with a RunView as its data; a comment when nothing changes for a while. "
            "The last one, of a run that is over, has the id `end`.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": "event: run\ndata: {}\n\n"}},
        },
        204: {"description": "There is nothing more to send: the request has `Last-Event-ID: end`."},
        **documented(404, 502),
    },
)
async def events(
    gateway: SharedGateway,
    id: Annotated[UUID, Path(examples=[RUN_ID])],
    last_event_id: Annotated[str | None, Header(description="What a browser sends when it connects again.")] = None,
) -> Response:
    """A run's changes as server-sent events."""
    if last_event_id == LAST_EVENT:
        return Response(status_code=204)
    # A run that does not exist must be found out before the answer begins: later there is no status to say so.
    await gateway.runs.view(id)
    return EventStream(gateway.watchers, id, gateway.settings.heartbeat_s)


class EventStream(Response):
    """Server-sent events (WHATWG HTML, 9.2) of one run."""

    media_type = "text/event-stream"

    def __init__(self, watchers: Watchers, run_id: UUID, heartbeat_s: float) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._watchers, self._run_id, self._heartbeat_s = watchers, run_id, heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Problem `too-many-requests`, before anything is sent."""
        async with self._watchers.of(self._run_id) as follower:
            await _first_of(_until_disconnected(receive), self._tell(follower, send))

    async def _tell(self, follower: Follower, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for view in _views(follower, self._heartbeat_s):
            await within(SEND_TIMEOUT_S, send({"type": "http.response.body", "body": _event(view), "more_body": True}))
        await within(SEND_TIMEOUT_S, send({"type": "http.response.body", "body": b""}))


async def _views(follower: Follower, heartbeat_s: float) -> AsyncIterator[RunView | None]:
    """Each new view; None if nothing changed for a while. Ends with the run, or when it is deleted."""
    ends_s = time.monotonic() + STREAM_S_MAX
    while time.monotonic() < ends_s:
        try:
            view = await follower.next(heartbeat_s)
        except Problem:
            return
        yield view
        if view is not None and view.status.is_over:
            return


def _event(view: RunView | None) -> bytes:
    if view is None:
        return b": still there\n\n"
    over = f"id: {LAST_EVENT}\n" if view.status.is_over else ""
    return f"{over}event: run\ndata: {view.model_dump_json(exclude_none=True)}\n\n".encode()


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Until one of them ends; the others are cancelled. A listener that has gone is not an error."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        try:
            task.result()
        except (TimeoutError, WebSocketDisconnect):
            pass


@router.websocket("/ws/runs/{id}")
async def follow(socket: WebSocket, id: UUID, gateway: SharedGateway) -> None:
    """The same over a WebSocket: text messages, each a RunView; closed with 1000 when the run is over, with 1013 when
    the stream has lasted an hour.

    The token comes in the header Authorization or, from browsers, as the second of the subprotocols `bearer, <token>`.
    """
    token, subprotocol = _token_of(socket)
    try:
        socket.state.caller = gateway.guard.admit(token)
        async with gateway.watchers.of(id) as follower:
            await socket.accept(subprotocol)
            await _first_of(_until_too_much(socket), _tell(socket, follower, gateway.settings.heartbeat_s))
    except (Problem, PoorwillError) as error:
        await socket.send_denial_response(problem_of(error).response(socket.state.request_id))


def _token_of(socket: WebSocket) -> tuple[str | None, str | None]:
    """The token, and the subprotocol to answer with if it came by that."""
    offered = [word.strip() for word in socket.headers.get("sec-websocket-protocol", "").split(",")]
    if len(offered) == 2 and offered[0] == SUBPROTOCOL:
        return offered[1], SUBPROTOCOL
    scheme, _, token = socket.headers.get("authorization", "").partition(" ")
    return (token.strip() if scheme.lower() == "bearer" else None), None


async def _tell(socket: WebSocket, follower: Follower, heartbeat_s: float) -> None:
    over = False
    async for view in _views(follower, heartbeat_s):
        if view is not None:  # no heartbeat: the server pings by itself
            await within(SEND_TIMEOUT_S, socket.send_text(view.model_dump_json(exclude_none=True)))
            over = view.status.is_over
    await within(SEND_TIMEOUT_S, socket.close(NORMAL if over else TRY_AGAIN))


async def _until_too_much(socket: WebSocket) -> None:
    """Clients have nothing to send: HEARD_MAX messages are ignored, then the socket is closed."""
    for _ in range(HEARD_MAX):
        if (await socket.receive())["type"] == "websocket.disconnect":
            return
    await socket.close(POLICY)
