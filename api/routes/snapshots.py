"""Snapshots: what the store holds, and the runs that take, restore and delete them."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from api.http.auth import IdempotencyKey, caller
from api.http.problems import documented
from api.machines.addresses import InstanceId, Reach, SnapshotId
from api.routes.generation import Opened
from api.runs.orders import Ordered, Parameters, Wait, answered
from api.store.snapshots import Row
from poorwill.errors import UsageError
from poorwill.snapshot import labels
from poorwill.snapshot.ids import new_snapshot_id

router = APIRouter(prefix="/api/gpu-snapshots", tags=["snapshots"], dependencies=[Depends(caller)])
PAGE_MAX = 500
SNAPSHOT = "20261125T031500Z-0badcafe"
_ADDRESS = {"ssh_host": "ssh4.vast.ai", "ssh_port": 31337, "workspace_path": "/workspace"}


def _checked_name(name: str) -> str | None:
    try:
        return labels.checked_name(name)
    except UsageError as error:
        raise ValueError(error.message) from None


def _checked_tags(tags: list[str]) -> list[str]:
    try:
        return list(labels.checked_tags(tags))
    except UsageError as error:
        raise ValueError(error.message) from None


class SnapshotView(BaseModel):
    """A committed snapshot. Sizes are in bytes."""

    id: str = Field(examples=[SNAPSHOT])
    name: str | None
    tags: list[str]
    machine: str = Field(description="Under whose name it is kept.", examples=["vast-31337-5f0e11aa"])
    instance_id: str | None = Field(description="The instance that it was taken of.", examples=["31337"])
    workspace_path: str | None
    created_at: str | None = Field(examples=["2026-11-25T03:15:07Z"])
    parent: str | None = Field(description="The snapshot that it shares unchanged data with.")
    files: int
    raw_bytes: int = Field(description="Of its files, with their holes.")
    data_bytes: int = Field(description="Of the data in them.")
    stored_bytes: int = Field(description="What stands for that in the store, with what earlier snapshots hold.")
    sent_bytes: int = Field(description="What this snapshot added to the store.")
    ratio: float | None = Field(description="data_bytes / stored_bytes.", examples=[1.42])
    needs: list[str] = Field(description="What a machine must have to restore it.")
    verified: bool = Field(description="Whether it was read back.")
    verified_at: datetime | None
    problem: str | None = Field(None, description="Why the rest is empty: its metadata cannot be read.")

    @classmethod
    def of(cls, row: Row, verified_s: float | None) -> SnapshotView:
        return cls(
            id=row.id,
            name=row.name,
            tags=list(row.tags),
            machine=row.machine,
            instance_id=row.instance or None,
            workspace_path=row.workspace or None,
            created_at=row.created_at or None,
            parent=row.parent,
            files=row.files,
            raw_bytes=row.raw_bytes,
            data_bytes=row.data_bytes,
            stored_bytes=row.stored_bytes,
            sent_bytes=row.sent_bytes,
            ratio=row.ratio,
            needs=list(row.needs),
            verified=verified_s is not None,
            verified_at=datetime.fromtimestamp(verified_s, timezone.utc) if verified_s is not None else None,
            problem=row.problem,
        )


class SnapshotList(BaseModel):
    """A page of snapshots, newest first."""

    snapshots: list[SnapshotView]
    next_before: str | None = Field(None, description="`before` of the next page; null on the last one.")


class SnapshotRequest(Reach):
    """What to take a snapshot of. A machine that is known already needs no address."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"instance_id": "vast:31337", **_ADDRESS, "snapshot_name": "before-training"}]},
    )

    instance_id: InstanceId
    snapshot_name: Annotated[str, AfterValidator(_checked_name)] | None = Field(None, max_length=labels.NAME_CHARS_MAX)
    tags: Annotated[list[str], AfterValidator(_checked_tags)] | None = Field(None, max_length=labels.TAGS_MAX)


class RestoreRequest(Reach):
    """The machine to restore onto: by its address, or by its id where it is known already."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_ADDRESS]})

    instance_id: InstanceId | None = None
    overwrite: bool = Field(False, description="Whether files that are there may be replaced.")

    @model_validator(mode="after")
    def _somewhere(self) -> RestoreRequest:
        if self.ssh_host is None and self.instance_id is None:
            raise ValueError("say where to restore to: give ssh_host and ssh_port, or instance_id of a known machine")
        return self


@router.get("", responses=documented(404, 502, 504))
async def snapshots(
    opened: Opened,
    instance_id: Annotated[InstanceId | None, Query(description="Only those of this machine.")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
    before: Annotated[
        str | None, Query(max_length=200, description="Where to go on: `next_before` of the page before.")
    ] = None,
) -> SnapshotList:
    """Snapshots in the store, newest first. An id of a machine that is not known gives an empty list."""
    estate = opened.estate
    machines = await estate.machines.kept_as(instance_id) if instance_id is not None else None
    page = await estate.threads.run(partial(estate.catalog.page, machines, limit, before), "the store")
    rows = [SnapshotView.of(row, page.verified.get((row.machine, row.id))) for row in page.rows]
    return SnapshotList(snapshots=rows, next_before=page.before)


@router.get("/{id}", responses=documented(404, 502, 504))
async def snapshot(opened: Opened, id: Annotated[SnapshotId, Path(examples=[SNAPSHOT])]) -> SnapshotView:
    """One snapshot."""
    row, verified_s = await opened.estate.threads.run(partial(opened.estate.catalog.one, id), "the store")
    return SnapshotView.of(row, verified_s)


_STARTED: dict[str, Any] = {
    "status_code": 202,
    "response_model_exclude_none": True,
    "responses": {200: {"model": Ordered, "description": "It is over."}, **documented(404, 409, 502, 504)},
}


@router.post("/create", **_STARTED)
async def create(
    asked: SnapshotRequest, opened: Opened, key: IdempotencyKey, response: Response, wait: Wait = 0
) -> Ordered:
    """Take a snapshot of a machine, which goes on: a run of the flow `snapshot`."""
    estate = opened.estate

    async def parameters(earlier: Parameters) -> Parameters:
        return {
            "machine": await estate.block_of(asked.instance_id, asked, earlier),
            "store": opened.settings.store,
            "workspace": asked.workspace_path,
            "snapshot_id": earlier.get("snapshot_id") or new_snapshot_id(),
            "name": asked.snapshot_name,
            "tags": asked.tags or None,
        }

    view = await estate.orders.place("snapshot", key, f"instance:{asked.instance_id}", parameters, wait)
    return answered(Ordered.of(view, await estate.shown(view), asked.instance_id), response)


@router.post("/{id}/restore", **_STARTED)
async def restore(
    id: Annotated[SnapshotId, Path(examples=[SNAPSHOT])],
    asked: RestoreRequest,
    opened: Opened,
    key: IdempotencyKey,
    response: Response,
    wait: Wait = 0,
) -> Ordered:
    """Restore a snapshot onto a machine that exists, every hash checked: a run of the flow `wake`."""
    estate = opened.estate

    async def parameters(earlier: Parameters) -> Parameters:
        if not earlier:
            await estate.threads.run(partial(estate.catalog.machine_of, id), "the store")  # not-found now, not later
        return {
            "snapshot": id,
            "store": opened.settings.store,
            "machine": await estate.block_of(asked.instance_id, asked, earlier),
            "workspace": asked.workspace_path,
            "overwrite": asked.overwrite,
        }

    about = asked.instance_id or f"{asked.ssh_host}:{asked.ssh_port}"
    view = await estate.orders.place("wake", key, f"instance:{about}", parameters, wait)
    return answered(Ordered.of(view, await estate.shown(view), asked.instance_id), response)


@router.delete("/{id}", **_STARTED)
async def delete(
    id: Annotated[SnapshotId, Path(examples=[SNAPSHOT])],
    opened: Opened,
    key: IdempotencyKey,
    response: Response,
    wait: Wait = 0,
    force: Annotated[
        bool, Query(description="Also if a machine is asleep in it, or the run that takes it has not ended.")
    ] = False,
) -> Ordered:
    """Delete a snapshot; data that other snapshots share is kept. A run of the flow `delete`."""
    estate = opened.estate

    async def parameters(earlier: Parameters) -> Parameters:
        if not earlier:
            await estate.threads.run(partial(estate.catalog.machine_of, id), "the store")
        return {"store": opened.settings.store, "snapshot": id, "force": force}

    view = await estate.orders.place("delete", key, f"snapshot:{id}", parameters, wait)
    return answered(Ordered.of(view), response)
