"""Requests that start a run on a machine or a snapshot, and their answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query, Response
from pydantic import BaseModel, Field

from api.deps import IdempotencyKey, SharedGateway
from api.http.problems import Problem, documented
from api.machines.blocks import MachineBlock
from api.runs.run_view import RunError, RunView
from poorwill.runs import Status

Parameters = Mapping[str, Any]


class Follow(BaseModel):
    """Where the run can be followed."""

    run: str = Field(examples=["/runs/0b8f1a52-6c11-4f0e-9a3f-0a4f7f6b6a10"])
    events: str = Field(description="Server-sent events.")
    websocket: str


class HostKey(BaseModel):
    """The key by which a machine is known from its first contact on."""

    fingerprint: str = Field(examples=["SHA256:N0cQYYx8Yw2d7gM1YyXk3m5gqkWq4n2oUoXoXvJm0c8"])
    line: str = Field(examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5..."])

    @classmethod
    def of(cls, machine: MachineBlock | None) -> HostKey | None:
        if machine is None or machine.fingerprint is None:
            return None
        return cls(fingerprint=machine.fingerprint, line=machine.host_key)


class Ordered(BaseModel):
    """A run that was created or found, and its outcome once it is over. What does not apply is left out."""

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
    def of(cls, view: RunView, machine: MachineBlock | None = None, instance_id: str | None = None) -> Ordered:
        return cls(
            run_id=view.id,
            status=view.status,
            snapshot_id=view.snapshot_id,
            instance_id=instance_id or (machine.instance if machine is not None else None) or None,
            machine=view.machine,
            host_key=HostKey.of(machine),
            position=view.position,
            step=view.step,
            progress=view.progress,
            error=view.error,
            follow=Follow(run=f"/runs/{view.id}", events=f"/runs/{view.id}/events", websocket=f"/ws/runs/{view.id}"),
        )


STARTED: dict[str, Any] = {
    "status_code": 202,
    "response_model_exclude_none": True,
    "responses": {200: {"model": Ordered, "description": "It is over."}, **documented(404, 409, 502, 504)},
}
"""The options of their routes."""


@dataclass(frozen=True, slots=True)
class Order:
    """What all of these requests have. `wait_s`: how long they wait for the run's end."""

    gateway: SharedGateway
    key: IdempotencyKey
    response: Response
    wait_s: Annotated[
        float,
        Query(
            alias="wait", ge=0, le=3600, allow_inf_nan=False,
            description="Wait up to so many seconds for the end; 200 if it came.",
        ),
    ] = 0  # fmt: skip

    async def place(
        self,
        flow: str,
        about: str,
        parameters: Callable[[Parameters], Awaitable[Parameters]],
        instance_id: str | None = None,
    ) -> Ordered:
        """A run of a flow, or the one that was created with this key: 202 while it goes on, 200 with the outcome.

        about: what the client named (`instance:vast:31337`), a tag of the run. `parameters(earlier)` makes the run's
        parameters; `earlier` are those of the run that has this key, if any, to take from them what would otherwise be
        made anew (a snapshot's id, a machine's block). Problems: those of `Runs.create`.
        """
        view = await self._placed(flow, about, parameters)
        if self.wait_s > 0 and not view.status.is_over:
            view = await self.gateway.runs.wait(view.id, self.wait_s)
        machine = None
        if view.machine is not None:
            machine = await self.gateway.machines.named(view.machine, fresh=view.status.is_over)
        ordered = Ordered.of(view, machine, instance_id)
        self.response.status_code = 200 if view.status.is_over else 202
        self.response.headers["Location"] = ordered.follow.run
        return ordered

    async def _placed(
        self, flow: str, about: str, parameters: Callable[[Parameters], Awaitable[Parameters]]
    ) -> RunView:
        runs, again = self.gateway.runs, self.key is not None
        while True:
            earlier = await runs.earlier(flow, self.key, about)
            given = await parameters(earlier)
            try:
                return (await runs.create(flow, given, idempotency_key=self.key, tags=[about]))[0]
            except Problem as problem:
                if not again or earlier or problem.kind != "conflict":
                    raise
            again = False  # two requests with one key at the same moment: the run of the other one exists by now


NewOrder = Annotated[Order, Depends()]
