"""The machine blocks on the Prefect server, read in pages, bounded, and remembered for a moment.

Secrets are never asked for: the other fields of a block are enough here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from blake3 import blake3

from api.http.problems import Problem
from api.runs.caches import Remembered
from api.runs.client import Prefect
from blocks.lookup import block_name_of
from blocks.machines import Machine
from blocks.providers import OwnMachines
from poorwill.remote.host_key import fingerprint
from poorwill.snapshot.ids import is_machine_name

PAGE = 100
MACHINES_MAX = 2000
"""Prefect answers 20 KB for each, since every one of them brings its schema."""
REMEMBERED_S = 3.0
_BLOCK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class MachineBlock:
    """One machine block. `machine` is the name its snapshots are kept under."""

    id: UUID
    block: str
    machine: str
    provider: str  # the provider block's name; empty where it is written into the machine's block
    provider_id: str  # of that block
    kind: str  # the slug of the provider's type
    instance: str
    status: str
    snapshot: str
    ssh_host: str
    ssh_port: int
    ssh_user: str
    host_key: str

    @property
    def awake(self) -> bool:
        """Whether there is an instance to work on: not while it is being woken."""
        return bool(self.instance) and self.status == "awake"

    @property
    def destroyable(self) -> bool:
        """Whether its provider can destroy it at all."""
        return self.kind != OwnMachines.get_block_type_slug()

    @property
    def fingerprint(self) -> str | None:
        """Of its host key, as OpenSSH shows it; None before the first contact."""
        try:
            return fingerprint(self.host_key) if self.host_key else None
        except (ValueError, IndexError):
            return None  # an operator typed something else into the block

    @property
    def names(self) -> frozenset[str]:
        """The names that a client may call it by."""
        called = {self.block, self.instance, f"{self.provider}:{self.instance}" if self.instance else ""}
        return frozenset(called - {""})


def _only(what: str, machines: list[MachineBlock]) -> MachineBlock | None:
    """The machine of that name, or None. Problem `conflict` if there are several: nothing is guessed."""
    if len(machines) > 1:
        named = ", ".join(sorted(machine.block for machine in machines)[:10])
        raise Problem("conflict", f"'{what}' may be any of the machines {named}: name the one that is meant")
    return machines[0] if machines else None


def block_name(instance_id: str) -> str:
    """The name of the block that is made for this id: always the same, and that of no other id.

    An id that can name a block is its own name; any other one is turned into a name, with a digest of the id, since
    ids may then look alike.
    """
    if _BLOCK_NAME.fullmatch(instance_id):
        return instance_id
    return f"{block_name_of(instance_id)[:54].rstrip('-')}-{blake3(instance_id.encode()).hexdigest()[:8]}"


def called(machines: tuple[MachineBlock, ...], instance_id: str) -> list[MachineBlock]:
    """The machines with that name or id now, or whose block was made for that id."""
    made = block_name(instance_id)
    return [machine for machine in machines if instance_id in machine.names or machine.block == made]


class MachineBlocks:
    """All machine blocks of a server; its problems are those of `Prefect.ask`."""

    def __init__(self, prefect: Prefect) -> None:
        self._prefect = prefect
        self.every = Remembered[tuple[MachineBlock, ...]](self._read, REMEMBERED_S).get
        """All of them, by name. Problem `refused` if there are more than MACHINES_MAX."""

    async def find(self, instance_id: str, *, fresh: bool = False) -> MachineBlock | None:
        """The machine with that name or id, or None. Problem `conflict` if there are several."""
        return _only(instance_id, called(await self.every(fresh=fresh), instance_id))

    async def named(self, block: str, *, fresh: bool = False) -> MachineBlock | None:
        return next((machine for machine in await self.every(fresh=fresh) if machine.block == block), None)

    async def kept_as(self, instance_id: str) -> frozenset[str]:
        """The names under which a store may keep the snapshots of the machines that have that id, or had it."""
        known = {machine.machine for machine in called(await self.every(), instance_id)}
        return frozenset(known or {name for name in (block_name(instance_id), instance_id) if is_machine_name(name)})

    async def at(self, host: str, port: int) -> MachineBlock | None:
        """The awake machine that is reached there, or None. Problem `conflict` if there are several."""
        machines = await self.every(fresh=True)
        found = [one for one in machines if one.awake and (one.ssh_host, one.ssh_port) == (host, port)]
        return _only(f"{host}:{port}", found)

    async def _read(self) -> tuple[MachineBlock, ...]:
        found: list[MachineBlock] = []
        wanted = {"block_types": {"slug": {"any_": [Machine.get_block_type_slug()]}}, "limit": PAGE}
        while len(found) <= MACHINES_MAX:
            page = await self._prefect.post("/block_documents/filter", {**wanted, "offset": len(found)})
            found += map(_machine_block, page)
            if len(page) < PAGE:
                return tuple(found)
        detail = f"Prefect holds more than {MACHINES_MAX} machine blocks: delete those of machines that are gone"
        raise Problem("refused", detail)


def _machine_block(document: dict[str, Any]) -> MachineBlock:
    data = document.get("data") or {}
    source = (document.get("block_document_references") or {}).get("provider", {}).get("block_document", {})

    def text(name: str) -> str:
        return str(data.get(name) or "")

    name = str(document["name"])
    return MachineBlock(
        id=UUID(document["id"]),
        block=name,
        machine=text("name") or name,
        provider=str(source.get("name") or ""),
        provider_id=str(source.get("id") or ""),
        kind=str((source.get("block_type") or {}).get("slug") or ""),
        instance=text("instance"),
        status=text("status") or "awake",
        snapshot=text("snapshot"),
        ssh_host=text("ssh_host"),
        ssh_port=int(data.get("ssh_port") or 22),
        ssh_user=text("ssh_user"),
        host_key=text("host_key"),
    )
