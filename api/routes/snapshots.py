"""Snapshots: what the store holds, and the runs that take, restore and delete them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.deps import SharedGateway, caller
from api.http.problems import documented
from api.machines.addresses import InstanceId, MachineAddress, SnapshotId, validator
from api.routes.run_orders import STARTED, NewOrder, Ordered, Parameters
from api.store.snapshots import Row
from poorwill import defaults
from poorwill.snapshot import labels
from poorwill.snapshot.ids import new_snapshot_id

router = APIRouter(prefix="/api/gpu-snapshots", tags=["snapshots"], dependencies=[Depends(caller)])
SNAPSHOT = "20261125T031500Z-0badcafe"
_ADDRESS: dict[str, Any] = {"ssh_host": "ssh4.vast.ai", "ssh_port": 31337, "workspace_path": defaults.WORKSPACE}


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
        verified_at = datetime.fromtimestamp(verified_s, timezone.utc) if verified_s is not None else None
        return cls(**asdict(row), ratio=row.ratio, verified=verified_s is not None, verified_at=verified_at)


class SnapshotList(BaseModel):
    """A page of snapshots, newest first."""

    snapshots: list[SnapshotView]
    next_before: str | None = Field(None, description="`before` of the next page; null on the last one.")


class SnapshotRequest(MachineAddress):
    """What to take a snapshot of. A machine that is known already needs no address."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"instance_id": "vast:31337", **_ADDRESS, "snapshot_name": "before-training"}]},
    )

    instance_id: InstanceId
    snapshot_name: Annotated[str, validator(labels.checked_name)] | None = Field(None, max_length=labels.NAME_CHARS_MAX)
    tags: Annotated[list[str], validator(labels.checked_tags)] | None = Field(None, max_length=labels.TAGS_MAX)


class RestoreRequest(MachineAddress):
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
    gateway: SharedGateway,
    instance_id: Annotated[InstanceId | None, Query(description="Only those of this machine.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    before: Annotated[
        str | None, Query(max_length=200, description="Where to go on: `next_before` of the page before.")
    ] = None,
) -> SnapshotList:
    """Snapshots in the store, newest first. An id of a machine that is not known gives an empty list."""
    machines = await gateway.machines.kept_as(instance_id) if instance_id is not None else None
    page = await gateway.ask_store(lambda catalog: catalog.page(machines, limit, before))
    rows = [SnapshotView.of(row, page.verified.get((row.machine, row.id))) for row in page.rows]
    return SnapshotList(snapshots=rows, next_before=page.before)


@router.get("/{id}", responses=documented(404, 502, 504))
async def snapshot(gateway: SharedGateway, id: SnapshotId) -> SnapshotView:
    """One snapshot."""
    row, verified_s = await gateway.ask_store(lambda catalog: catalog.one(id))
    return SnapshotView.of(row, verified_s)


@router.post("/create", **STARTED)
async def create(asked: SnapshotRequest, order: NewOrder) -> Ordered:
    """Take a snapshot of a machine, which goes on: a run of the flow `snapshot`."""
    gateway = order.gateway

    async def parameters(earlier: Parameters) -> Parameters:
        return {
            "machine": await gateway.register.block_for(asked.instance_id, asked, earlier),
            "store": gateway.settings.store,
            "workspace": asked.workspace_path,
            "snapshot_id": earlier.get("snapshot_id") or new_snapshot_id(),
            "name": asked.snapshot_name,
            "tags": asked.tags or None,
        }

    return await order.place("snapshot", f"instance:{asked.instance_id}", parameters, asked.instance_id)


@router.post("/{id}/restore", **STARTED)
async def restore(id: SnapshotId, asked: RestoreRequest, order: NewOrder) -> Ordered:
    """Restore a snapshot onto a machine that exists, every hash checked: a run of the flow `wake`."""
    gateway = order.gateway

    async def parameters(earlier: Parameters) -> Parameters:
        if not earlier:
            await gateway.ask_store(lambda catalog: catalog.machine_of(id))  # not-found now, not later
        return {
            "snapshot": id,
            "store": gateway.settings.store,
            "machine": await gateway.register.block_for(asked.instance_id, asked, earlier),
            "workspace": asked.workspace_path,
            "overwrite": asked.overwrite,
        }

    about = asked.instance_id or f"{asked.ssh_host}:{asked.ssh_port}"
    return await order.place("wake", f"instance:{about}", parameters, asked.instance_id)


@router.delete("/{id}", **STARTED)
async def delete(
    id: SnapshotId,
    order: NewOrder,
    force: Annotated[
        bool, Query(description="Also if a machine is asleep in it, or the run that takes it has not ended.")
    ] = False,
) -> Ordered:
    """Delete a snapshot; data that other snapshots share is kept. A run of the flow `delete`."""
    gateway = order.gateway

    async def parameters(earlier: Parameters) -> Parameters:
        if not earlier:
            await gateway.ask_store(lambda catalog: catalog.machine_of(id))
        return {"store": gateway.settings.store, "snapshot": id, "force": force}

    return await order.place("delete", f"snapshot:{id}", parameters)
