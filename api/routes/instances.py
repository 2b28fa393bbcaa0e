"""Machines: which there are, and the runs that put them to sleep and wake them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.deps import SharedGateway, caller
from api.http.problems import Problem, documented
from api.machines.addresses import InstanceId, MachineAddress, SnapshotId
from api.machines.blocks import MACHINES_MAX, MachineBlock
from api.machines.prices import Prices, price_per_hour
from api.routes.run_orders import STARTED, HostKey, NewOrder, Ordered, Parameters
from poorwill import defaults
from poorwill.errors import NotFound
from poorwill.snapshot.choices import Writers
from poorwill.snapshot.ids import new_snapshot_id

router = APIRouter(prefix="/api/instances", tags=["instances"], dependencies=[Depends(caller)])
SNAPSHOT = "20261125T031500Z-0badcafe"
_ADDRESS: dict[str, Any] = {"ssh_host": "ssh4.vast.ai", "ssh_port": 31337}


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
    def of(cls, machine: MachineBlock, prices: Prices) -> InstanceView:
        return cls(
            id=machine.block,
            instance_id=machine.instance or None,
            status=machine.status,
            snapshot_id=machine.snapshot or None,
            machine=machine.machine,
            provider=machine.provider or None,
            provider_kind=machine.kind.removeprefix("poorwill-") or None,
            ssh_host=machine.ssh_host or None,
            ssh_port=machine.ssh_port if machine.ssh_host else None,
            ssh_user=machine.ssh_user or None,
            host_key=HostKey.of(machine),
            price_per_hour=price_per_hour(machine, prices),
        )


class InstanceList(BaseModel):
    """A page of machines, by name."""

    instances: list[InstanceView]
    next_after: str | None = Field(None, description="`after` of the next page; null on the last one.")


class HibernateRequest(MachineAddress):
    """How the machine is reached, where that is not known, and whether it is to be destroyed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{**_ADDRESS, "workspace_path": defaults.WORKSPACE, "destroy_after": True}]},
    )

    destroy_after: bool = Field(
        False, description="Destroy the machine once every stored byte was read back. Otherwise it goes on billing."
    )
    writers: Writers = Field(
        defaults.WRITERS,
        description="What becomes of processes that have a file of the workspace open for writing: refuse keeps the "
        "machine and names them, stop ends them first, ignore destroys the machine all the same.",
    )
    allow_shrink: bool = Field(
        False,
        description="Destroy the machine although the workspace is empty, is another one than before, or has lost more "
        "than half of what the last snapshot has.",
    )


class WakeRequest(MachineAddress):
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
    gateway: SharedGateway,
    limit: Annotated[int, Query(ge=1, le=MACHINES_MAX)] = 100,
    after: Annotated[str | None, Query(max_length=200, description="`next_after` of the page before.")] = None,
    status: Annotated[Literal["awake", "asleep", "waking"] | None, Query(description="Only these.")] = None,
) -> InstanceList:
    """The machines that are known, with what they cost as far as that is on record."""
    machines = [one for one in await gateway.machines.every() if status in (None, one.status)]
    following = [machine for machine in machines if after is None or machine.block > after]
    prices = await gateway.prices.known_or_none()
    shown = [InstanceView.of(machine, prices) for machine in following[:limit]]
    return InstanceList(instances=shown, next_after=following[limit - 1].block if len(following) > limit else None)


@router.get("/{id}", responses=documented(404, 409, 502))
async def instance(gateway: SharedGateway, id: InstanceId) -> InstanceView:
    """One machine, by its block's name or its instance's id."""
    machine = await gateway.machines.find(id)
    if machine is None:
        raise NotFound(f"no machine is known as '{id}'")
    return InstanceView.of(machine, await gateway.prices.known_or_none())


@router.post("/{id}/hibernate", **STARTED)
async def hibernate(id: InstanceId, asked: HibernateRequest, order: NewOrder) -> Ordered:
    """Take a snapshot, read all of it back, and then, if asked, destroy the machine: a run of the flow `hibernate`."""
    gateway = order.gateway

    async def parameters(earlier: Parameters) -> Parameters:
        return {
            "machine": await gateway.register.block_for(id, asked, earlier, destroys=asked.destroy_after),
            "store": gateway.settings.store,
            "workspace": asked.workspace_path,
            "snapshot_id": earlier.get("snapshot_id") or new_snapshot_id(),
            "destroy": asked.destroy_after,
            "writers": asked.writers,
            "allow_shrink": asked.allow_shrink,
        }

    return await order.place("hibernate", f"instance:{id}", parameters, id)


@router.post("/{id}/wake", **STARTED)
async def wake(id: InstanceId, asked: WakeRequest, order: NewOrder) -> Ordered:
    """Wake a machine: rent one and restore onto it, or onto one that exists. A run of the flow `wake`."""
    gateway, wanted = order.gateway, asked.snapshot_id

    async def parameters(earlier: Parameters) -> Parameters:
        if wanted is not None and not earlier:
            await gateway.ask_store(lambda catalog: catalog.machine_of(wanted))  # not-found now, not later
        provider, sleeps_in = earlier.get("provider"), earlier.get("snapshot")
        if earlier or asked.ssh_host is not None:
            block = await gateway.register.block_for(id, asked, earlier)
        else:
            if wanted is None and await gateway.machines.find(id) is None:
                raise _no_snapshot(id)  # before a block is made
            machine, provider = await gateway.register.sleeping(id)
            block, sleeps_in = machine.block, machine.snapshot
        if not (wanted or sleeps_in):
            raise _no_snapshot(id)
        return {
            "snapshot": wanted or sleeps_in,
            "store": gateway.settings.store,
            "machine": block,
            "provider": provider,
            "workspace": asked.workspace_path,
            "overwrite": asked.overwrite if asked.ssh_host is not None else None,
            **asked.wish,
        }

    return await order.place("wake", f"instance:{id}", parameters, id)


def _no_snapshot(instance_id: str) -> Problem:
    detail = f"snapshot_id: machine '{instance_id}' has not slept yet, so say which snapshot to wake it from"
    return Problem("invalid-request", detail)
