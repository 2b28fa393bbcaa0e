"""The machines that Prefect's blocks name, as the gateway sees them: read in pages, bounded, remembered for a moment.

Secrets are never asked for: what a machine block says beside its keys is enough here.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from blake3 import blake3

from api.http.problems import Problem
from api.runs.client import Server
from blocks.lookup import block_name_of
from blocks.machines import Machine
from blocks.providers import OwnMachines
from poorwill.remote.host_key import fingerprint
from poorwill.snapshot.ids import is_machine_name

PAGE = 100
MACHINES_MAX = 2000
"""Prefect gives 20 KB for each: their schema comes with every one of them."""
REMEMBERED_S = 3.0
_BLOCK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Entry:
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
            return None  # somebody typed something else into the block

    @property
    def names(self) -> frozenset[str]:
        """What it may be called by."""
        called = {self.block, self.instance, f"{self.provider}:{self.instance}" if self.instance else ""}
        return frozenset(called - {""})


def ambiguous(what: str, entries: list[Entry]) -> Problem:
    """Several machines are meant, perhaps: nothing is guessed."""
    named = ", ".join(sorted(entry.block for entry in entries)[:10])
    return Problem(409, "conflict", detail=f"'{what}' may be any of the machines {named}: name the one that is meant")


def block_name(instance_id: str) -> str:
    """The block of a machine that was only ever known by this id: the same each time, and no other id's.

    An id that can name a block is its own name; any other one is made into one, and a digest of it tells it from
    those that look alike then.
    """
    if _BLOCK_NAME.fullmatch(instance_id):
        return instance_id
    return f"{block_name_of(instance_id)[:54].rstrip('-')}-{blake3(instance_id.encode()).hexdigest()[:8]}"


def called(entries: tuple[Entry, ...], instance_id: str) -> list[Entry]:
    """The machines that are called so now, or whose block was made for that id."""
    made = block_name(instance_id)
    return [entry for entry in entries if instance_id in entry.names or entry.block == made]


class Machines:
    """All machine blocks of a server; its problems are those of `Server.ask`."""

    def __init__(self, server: Server, remembered_s: float = REMEMBERED_S) -> None:
        self._server, self._remembered_s = server, remembered_s
        self._lock = asyncio.Lock()
        self._entries: tuple[Entry, ...] = ()
        self._read_s = -1e9

    async def every(self, *, fresh: bool = False) -> tuple[Entry, ...]:
        """By name. Problem `refused` if there are more than MACHINES_MAX. fresh: not as they were a moment ago."""
        async with self._lock:
            if fresh or time.monotonic() - self._read_s > self._remembered_s:
                self._entries = await self._read()
                self._read_s = time.monotonic()
            return self._entries

    async def find(self, instance_id: str, *, fresh: bool = False) -> Entry | None:
        """The machine that is called so, or None. Problem `conflict` if there are several."""
        found = called(await self.every(fresh=fresh), instance_id)
        if len(found) > 1:
            raise ambiguous(instance_id, found)
        return found[0] if found else None

    async def kept_as(self, instance_id: str) -> frozenset[str]:
        """The names under which a store may keep the snapshots of the machines that are called so, or were."""
        known = {entry.machine for entry in called(await self.every(), instance_id)}
        return frozenset(known or {name for name in (block_name(instance_id), instance_id) if is_machine_name(name)})

    async def at(self, host: str, port: int) -> Entry | None:
        """The awake machine that is reached there, or None. Problem `conflict` if there are several."""
        entries = await self.every(fresh=True)
        found = [one for one in entries if one.awake and (one.ssh_host, one.ssh_port) == (host, port)]
        if len(found) > 1:
            raise ambiguous(f"{host}:{port}", found)
        return found[0] if found else None

    async def _read(self) -> tuple[Entry, ...]:
        found: list[Entry] = []
        while len(found) <= MACHINES_MAX:
            page = await self._page(len(found))
            found += [_entry(document) for document in page]
            if len(page) < PAGE:
                return tuple(found)
        detail = f"Prefect holds more than {MACHINES_MAX} machine blocks: delete those of machines that are gone"
        raise Problem(409, "refused", detail=detail)

    async def _page(self, offset: int) -> list[dict[str, Any]]:
        wanted = {"block_types": {"slug": {"any_": [Machine.get_block_type_slug()]}}, "limit": PAGE, "offset": offset}
        return cast("list[dict[str, Any]]", await self._server.post("/block_documents/filter", wanted))


def _entry(document: dict[str, Any]) -> Entry:
    data = document.get("data") or {}
    source = (document.get("block_document_references") or {}).get("provider", {}).get("block_document", {})

    def text(name: str) -> str:
        return str(data.get(name) or "")

    name = str(document["name"])
    return Entry(
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
