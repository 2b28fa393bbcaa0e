"""Runs that work on machines and snapshots: ordered once for each idempotency key, and answered in one form."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Response
from pydantic import BaseModel, Field

from api.http.problems import Problem
from api.machines.blocks import Entry
from api.runs.client import Server
from api.runs.run_view import RunError, RunView
from api.runs.runs import DEPLOYMENT, Runs
from poorwill.runs import Status

Parameters = Mapping[str, Any]
Wait = Annotated[
    float,
    Query(ge=0, le=3600, allow_inf_nan=False, description="Wait up to so many seconds for the end. 200 if it came."),
]


class Follow(BaseModel):
    """Where to look how it goes on."""

    run: str = Field(examples=["/runs/0b8f1a52-6c11-4f0e-9a3f-0a4f7f6b6a10"])
    events: str = Field(description="Server-sent events.")
    websocket: str


class HostKey(BaseModel):
    """The key by which a machine is known from its first contact on."""

    fingerprint: str = Field(examples=["SHA256:N0cQYYx8Yw2d7gM1YyXk3m5gqkWq4n2oUoXoXvJm0c8"])
    line: str = Field(examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5..."])

    @classmethod
    def of(cls, entry: Entry | None) -> HostKey | None:
        if entry is None or entry.fingerprint is None:
            return None
        return cls(fingerprint=entry.fingerprint, line=entry.host_key)


class Ordered(BaseModel):
    """A run that was created, or found, and how it ended, if it did. What does not apply is left out."""

    run_id: UUID
    status: Status
    snapshot_id: str | None = Field(None, description="Known before the snapshot is taken.")
    instance_id: str | None = None
    machine: str | None = Field(None, description="The machine's block: it keeps its name through all sleeps.")
    host_key: HostKey | None = Field(None, description="Once it is known: from the first contact on.")
    position: int | None = Field(None, description="In the queue; 1 is next.")
    step: str | None = None
    progress: float | None = None
    error: RunError | None = Field(None, description="Failed: why.")
    follow: Follow

    @classmethod
    def of(cls, view: RunView, entry: Entry | None = None, instance_id: str | None = None) -> Ordered:
        run = view.id
        return cls(
            run_id=run,
            status=view.status,
            snapshot_id=view.snapshot_id,
            instance_id=instance_id or (entry.instance if entry is not None else None) or None,
            machine=view.machine,
            host_key=HostKey.of(entry),
            position=view.position,
            step=view.step,
            progress=view.progress,
            error=view.error,
            follow=Follow(run=f"/runs/{run}", events=f"/runs/{run}/events", websocket=f"/ws/runs/{run}"),
        )


def answered(ordered: Ordered, response: Response) -> Ordered:
    """202 while it goes on, 200 with the outcome; `Location` is the run."""
    response.status_code = 200 if ordered.status.is_over else 202
    response.headers["Location"] = ordered.follow.run
    return ordered


class Orders:
    """Creates runs whose parameters are partly made here (a snapshot's id, a machine's block)."""

    def __init__(self, server: Server, runs: Runs) -> None:
        self._server, self._runs = server, runs

    async def place(
        self,
        flow: str,
        key: str | None,
        about: str,
        parameters: Callable[[Parameters], Awaitable[Parameters]],
        wait_s: float = 0,
    ) -> RunView:
        """A run of a flow, or the one that was created with this key.

        about: what the client named (`instance:vast:31337`), a tag of the run. `parameters(earlier)` gives what the
        run is to have; `earlier` are the parameters of the run of that key, from which it takes what it would
        otherwise make anew, or none. Problems: those of `Runs.create`.
        """
        view = await self._placed(flow, key, about, parameters)
        if wait_s > 0 and not view.status.is_over:
            return await self._runs.wait(view.id, wait_s)
        return view

    async def _placed(
        self, flow: str, key: str | None, about: str, parameters: Callable[[Parameters], Awaitable[Parameters]]
    ) -> RunView:
        deployment = f"{flow}/{DEPLOYMENT}"
        for attempt in (1, 2):
            earlier = await self._earlier(flow, key, about)
            given = await parameters(earlier)
            try:
                return await self._runs.create(deployment, given, idempotency_key=key, tags=[about])
            except Problem as problem:
                # Two requests with one key at the same moment: the other one's run is there by now.
                if key is None or earlier or problem.kind != "conflict" or attempt == 2:
                    raise
        raise AssertionError("unreachable")

    async def _earlier(self, flow: str, key: str | None, about: str) -> Parameters:
        if key is None:
            return {}
        wanted = {"flow_runs": {"idempotency_key": {"any_": [key]}}, "flows": {"name": {"any_": [flow]}}, "limit": 1}
        found = await self._server.post("/flow_runs/filter", wanted)
        if not found:
            return {}
        if about not in (found[0].get("tags") or []):
            detail = "this Idempotency-Key was used with another request"
            raise Problem(409, "conflict", detail=detail, run_id=found[0]["id"])
        return dict(found[0].get("parameters") or {})
