"""Machines: which there are, and the runs that put them to sleep and wake them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.http.auth import IdempotencyKey, caller
from api.http.problems import Problem, documented
from api.machines.addresses import InstanceId, Reach, SnapshotId
from api.machines.blocks import MACHINES_MAX, Entry
from api.machines.prices import Prices, price_per_hour
from api.routes.generation import Opened
from api.runs.orders import HostKey, Ordered, Parameters, Wait, answered
from poorwill.errors import NotFound
from poorwill.snapshot.ids import new_snapshot_id

router = APIRouter(prefix="/api/instances", tags=["instances"], dependencies=[Depends(caller)])
SNAPSHOT = "20261125T031500Z-0badcafe"
_ADDRESS = {"ssh_host": "ssh4.vast.ai", "ssh_port": 31337}
Id = Annotated[InstanceId, Path(examples=["vast:31337"])]


class InstanceView(BaseModel):
    """A machine, awake or asleep."""

    id: str = Field(description="The machine's block: it is called so in all paths, through all its sleeps.")
    instance_id: str | None = Field(description="The instance it is now; null while it sleeps.")
    status: str = Field(description="awake, asleep or waking: what the flows last did.", examples=["awake"])
    snapshot_id: str | None = Field(description="The snapshot it was last put to sleep in, or woken from.")
    machine: str = Field(description="The name that its snapshots are kept under.")
    provider: str | None = Field(description="The block of its provider.", examples=["vast"])
    provider_kind: str | None = Field(examples=["vast-provider"])
    ssh_host: str | None = Field(description="Null: the provider is asked.")
    ssh_port: int | None
    ssh_user: str | None
    host_key: HostKey | None = Field(description="Recorded at the first contact; null before.")
    price_per_hour: float | None = Field(description="US dollars, as it was created; null where that is not known.")

    @classmethod
    def of(cls, entry: Entry, prices: Prices) -> InstanceView:
        return cls(
            id=entry.block,
            instance_id=entry.instance or None,
            status=entry.status,
            snapshot_id=entry.snapshot or None,
            machine=entry.machine,
            provider=entry.provider or None,
            provider_kind=entry.kind.removeprefix("poorwill-") or None,
            ssh_host=entry.ssh_host or None,
            ssh_port=entry.ssh_port if entry.ssh_host else None,
            ssh_user=entry.ssh_user or None,
            host_key=HostKey.of(entry),
            price_per_hour=price_per_hour(entry, prices),
        )


class InstanceList(BaseModel):
    """A page of machines, by name."""

    instances: list[InstanceView]
    next_after: str | None = Field(None, description="`after` of the next page; null on the last one.")


class HibernateRequest(Reach):
    """How the machine is reached, where that is not known, and whether it is to be destroyed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{**_ADDRESS, "workspace_path": "/workspace", "destroy_after": True}]},
    )

    destroy_after: bool = Field(
        False, description="Destroy the machine once every stored byte was read back. Otherwise it goes on billing."
    )


class WakeRequest(Reach):
    """What to wake from, and a machine that exists (`ssh_host`) or the wish for one to rent."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"snapshot_id": SNAPSHOT, "gpu_type": "RTX 4090", "region": "DE"},
                {"snapshot_id": SNAPSHOT, **_ADDRESS},
            ]
        },
    )

    snapshot_id: SnapshotId | None = Field(None, description="Left out: the one that the machine sleeps in.")
    gpu_type: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$", examples=["RTX 4090"])
    gpu_count: int | None = Field(None, ge=1, le=64)
    region: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ,._-]{0,63}$", examples=["DE"])
    price_per_hour_max: float | None = Field(None, gt=0, lt=100_000, allow_inf_nan=False, description="US dollars.")
    disk_gb: int | None = Field(None, ge=1, lt=1_000_000)
    overwrite: bool = Field(False, description="Whether files that are on a machine that exists may be replaced.")

    @property
    def wish(self) -> dict[str, Any]:
        """The parameters of `wake` that say what to rent."""
        return {
            "gpu": self.gpu_type,
            "gpu_count": self.gpu_count,
            "region": self.region,
            "price_per_hour_max": self.price_per_hour_max,
            "disk_gb": self.disk_gb,
        }

    @model_validator(mode="after")
    def _one_of_both(self) -> WakeRequest:
        if self.ssh_host is not None and any(value is not None for value in self.wish.values()):
            raise ValueError("give either ssh_host of a machine that exists, or what to rent (gpu_type, region, ..)")
        return self


@router.get("", responses=documented(502))
async def instances(
    opened: Opened,
    limit: Annotated[int, Query(ge=1, le=MACHINES_MAX)] = 100,
    after: Annotated[str | None, Query(max_length=200, description="`next_after` of the page before.")] = None,
    status: Annotated[Literal["awake", "asleep", "waking"] | None, Query(description="Only these.")] = None,
) -> InstanceList:
    """The machines that are known, with what they cost as far as that is on record."""
    entries = [one for one in await opened.estate.machines.every() if status in (None, one.status)]
    following = [entry for entry in entries if after is None or entry.block > after]
    prices = await opened.estate.known_prices()
    shown = [InstanceView.of(entry, prices) for entry in following[:limit]]
    return InstanceList(instances=shown, next_after=following[limit - 1].block if len(following) > limit else None)


@router.get("/{id}", responses=documented(404, 409, 502))
async def instance(opened: Opened, id: Id) -> InstanceView:
    """One machine, by its block's name or its instance's id."""
    entry = await opened.estate.machines.find(id)
    if entry is None:
        raise NotFound(f"no machine is known as '{id}'")
    return InstanceView.of(entry, await opened.estate.known_prices())


_STARTED: dict[str, Any] = {
    "status_code": 202,
    "response_model_exclude_none": True,
    "responses": {200: {"model": Ordered, "description": "It is over."}, **documented(404, 409, 502, 504)},
}


@router.post("/{id}/hibernate", **_STARTED)
async def hibernate(
    id: Id, asked: HibernateRequest, opened: Opened, key: IdempotencyKey, response: Response, wait: Wait = 0
) -> Ordered:
    """Take a snapshot, read all of it back, and then, if asked, destroy the machine: a run of the flow `hibernate`."""
    estate = opened.estate

    async def parameters(earlier: Parameters) -> Parameters:
        return {
            "machine": await estate.block_of(id, asked, earlier, destroys=asked.destroy_after),
            "store": opened.settings.store,
            "workspace": asked.workspace_path,
            "snapshot_id": earlier.get("snapshot_id") or new_snapshot_id(),
            "destroy": asked.destroy_after,
        }

    view = await estate.orders.place("hibernate", key, f"instance:{id}", parameters, wait)
    return answered(Ordered.of(view, await estate.shown(view), id), response)


@router.post("/{id}/wake", **_STARTED)
async def wake(
    id: Id, asked: WakeRequest, opened: Opened, key: IdempotencyKey, response: Response, wait: Wait = 0
) -> Ordered:
    """Wake a machine: rent one and restore onto it, or onto one that exists. A run of the flow `wake`."""
    estate = opened.estate

    async def parameters(earlier: Parameters) -> Parameters:
        if asked.snapshot_id is not None and not earlier:
            await estate.threads.run(partial(estate.catalog.machine_of, asked.snapshot_id), "the store")
        provider, sleeps_in = earlier.get("provider"), earlier.get("snapshot")
        if earlier or asked.ssh_host is not None:
            block = await estate.block_of(id, asked, earlier)
        else:
            if asked.snapshot_id is None and await estate.machines.find(id) is None:
                _no_snapshot(id)  # before a block is made
            entry, provider = await estate.admission.sleeping(id)
            block, sleeps_in = entry.block, entry.snapshot
        return {
            "snapshot": asked.snapshot_id or sleeps_in or _no_snapshot(id),
            "store": opened.settings.store,
            "machine": block,
            "provider": provider,
            "workspace": asked.workspace_path,
            "overwrite": asked.overwrite if asked.ssh_host is not None else None,
            **asked.wish,
        }

    view = await estate.orders.place("wake", key, f"instance:{id}", parameters, wait)
    return answered(Ordered.of(view, await estate.shown(view), id), response)


def _no_snapshot(instance_id: str) -> str:
    detail = f"snapshot_id: machine '{instance_id}' has not slept yet, so say which snapshot to wake it from"
    raise Problem(422, "invalid-request", detail=detail)
