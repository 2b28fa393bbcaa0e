"""A machine that a client names becomes one that flows can work on: its block is made, or brought up to date.

The block of a machine is never given to another one. An address may change; the host key that was recorded stays, so
that a flow refuses whoever answers there in its place. Only a new instance, or a key that the client states, begins
anew.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from prefect.client.schemas.actions import BlockDocumentUpdate

from api.http.problems import Problem, unavailable
from api.machines.addresses import Reach
from api.machines.blocks import Entry, Machines, block_name
from api.runs.client import Server
from api.store.threads import Threads
from blocks.lookup import provider_block
from blocks.machines import Machine
from blocks.providers import AnyProvider, LocalProvider, OwnMachines
from poorwill.errors import NotFound

OWN = "own"
"""The provider block of machines that are known by nothing but an address, where the usual one is another."""
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")


@dataclass(frozen=True, slots=True)
class Named:
    """An instance id as it was read: an instance of a provider."""

    provider: str  # the name of its block
    instance: str
    source: AnyProvider


class Admission:
    """Makes and updates machine blocks. `provider`: the block whose machines are meant where an id names none."""

    def __init__(self, server: Server, machines: Machines, threads: Threads, provider: str) -> None:
        self._server, self._machines, self._threads, self._provider = server, machines, threads, provider
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def awake(self, instance_id: str, reach: Reach, *, destroys: bool = False) -> Entry:
        """The machine of that id, with an instance that can be worked on, and destroyed if that is wanted.

        Problems: not-found, conflict, refused, and invalid-request for a machine that nobody can destroy; nothing is
        changed then.
        """
        async with self._one_at_a_time(instance_id):
            entry = await self._machines.find(instance_id, fresh=True)
            if entry is None:
                return await self._create(instance_id, await self._named(instance_id), reach, destroys)
            if entry.status == "waking":
                raise Problem(409, "conflict", detail=f"machine {entry.block} is being woken: wait for that")
            if destroys and not entry.destroyable:
                raise _indestructible(entry.block)
            if entry.awake:
                return await self._move(entry, reach)
            if reach.ssh_host is None:
                raise asleep(entry)
            return await self._replace(entry, instance_id, reach)

    async def at(self, reach: Reach) -> Entry:
        """The machine at an address that is known by nothing else; `reach.ssh_host` is given."""
        assert reach.ssh_host is not None
        known = await self._machines.at(reach.ssh_host, reach.ssh_port)
        address = f"{reach.ssh_host}:{reach.ssh_port}"
        if known is None and await self._machines.find(address) is None:
            async with self._one_at_a_time(address):
                return await self._create(address, await self._of_ones_own(address), reach)
        return await self.awake(known.block if known is not None else address, reach)

    async def sleeping(self, instance_id: str) -> tuple[Entry, str | None]:
        """The machine of that id, to be woken on a new instance, and the provider block that is to rent it: None
        for the one it came from. Problems: conflict, invalid-request, not-found."""
        async with self._one_at_a_time(instance_id):
            entry = await self._machines.find(instance_id, fresh=True)
            if entry is None:
                named = await self._named(instance_id)
                _check_rents(named.source, named.provider)
                return await self._save(instance_id, named.source, instance="", status="asleep"), None
            if entry.awake:
                detail = (
                    f"machine {entry.block} is awake as instance {entry.instance}: give ssh_host to restore onto it, "
                    "or hibernate it first"
                )
                raise Problem(409, "conflict", detail=detail)
            if entry.destroyable:
                return entry, None
            _check_rents(await self._usual(), self._provider)
            return entry, self._provider

    def _one_at_a_time(self, instance_id: str) -> asyncio.Lock:
        """Of this process: what other ones do at the same moment shows when a block is saved."""
        return self._locks.setdefault(block_name(instance_id), asyncio.Lock())

    async def _named(self, instance_id: str) -> Named:
        """`<provider block>:<instance>` where there is such a block; else an instance of the usual provider."""
        before, _, after = instance_id.partition(":")
        if after and _PROVIDER.fullmatch(before):
            try:
                return Named(before, after, await self._source(before))
            except NotFound:
                pass  # the colon is a part of the id
        return Named(self._provider, instance_id, await self._usual())

    async def _usual(self) -> AnyProvider:
        try:
            return await self._source(self._provider)
        except NotFound as error:
            raise NotFound(f"{error.message}, or set POORWILL_API_PROVIDER to another one") from None

    async def _source(self, name: str) -> AnyProvider:
        return await self._threads.run(lambda: provider_block(name), f"provider block '{name}'")

    async def _of_ones_own(self, address: str) -> Named:
        """No provider has an instance that is called by its address: somebody looks after it by hand."""
        source, name = await self._usual(), self._provider
        if not isinstance(source, OwnMachines):
            source, name = await self._source(OWN), OWN
        if not isinstance(source, OwnMachines):
            raise Problem(409, "conflict", detail=f"provider block '{OWN}' is not of type Poorwill own machines")
        return Named(name, address, source)

    async def _create(self, instance_id: str, named: Named, reach: Reach, destroys: bool = False) -> Entry:
        if isinstance(named.source, OwnMachines):
            if destroys:
                raise _indestructible(instance_id)
            if reach.ssh_host is None:
                raise NotFound(
                    f"no machine is known as '{instance_id}': give ssh_host and ssh_port, where it is reached"
                )
        else:
            # A name that was mistyped must not become a block.
            asked = f"the provider '{named.provider}'"
            await self._threads.run(lambda: named.source.open().get(named.instance), asked)
            if isinstance(named.source, LocalProvider) and reach.ssh_host is not None:
                raise _no_ssh(instance_id)
        return await self._save(instance_id, named.source, instance=named.instance, **_reached(reach))

    async def _save(self, instance_id: str, source: AnyProvider, **fields: Any) -> Entry:
        name = block_name(instance_id)
        machine = Machine(provider=source, name=name, **fields)
        try:
            await self._threads.run(lambda: machine.save(name), "the Prefect server")
        except ValueError:
            pass  # another process of the gateway made it since it was looked for, for the same id
        entry = await self._machines.find(name, fresh=True)
        if entry is None:
            raise unavailable(f"the block of machine {name} could not be saved")
        return entry

    async def _move(self, entry: Entry, reach: Reach) -> Entry:
        """The same instance, perhaps at another address."""
        if entry.kind == LocalProvider.get_block_type_slug() and reach.ssh_host is not None:
            raise _no_ssh(entry.block)
        return await self._update(entry, _reached(reach), entry.provider_id)

    async def _replace(self, entry: Entry, instance_id: str, reach: Reach) -> Entry:
        """Its instance is gone: what answers at that address is another one, of which no key is known."""
        change = {"ssh_user": "", "host_key": "", **_reached(reach), "instance": instance_id, "status": "awake"}
        if not entry.destroyable:
            return await self._update(entry, change, entry.provider_id)
        source = await self._usual()
        if not isinstance(source, OwnMachines):
            detail = (
                f"machine {entry.block} sleeps in snapshot {entry.snapshot or '(none)'} and its instance is gone: "
                "give the id of the new instance in the path"
            )
            raise Problem(409, "conflict", detail=detail)
        return await self._update(entry, change, str(source._block_document_id))

    async def _update(self, entry: Entry, data: dict[str, Any], provider_id: str) -> Entry:
        if provider_id == entry.provider_id and all(getattr(entry, name) == value for name, value in data.items()):
            return entry
        # Prefect forgets a reference to another block that an update leaves out.
        reference = {"provider": {"$ref": {"block_document_id": provider_id}}} if provider_id else {}
        change = BlockDocumentUpdate(data={**data, **reference}, merge_existing_data=True)
        await self._server.ask(self._server.client.update_block_document(entry.id, change))
        changed = await self._machines.find(entry.block, fresh=True)
        if changed is None:
            raise unavailable(f"the block of machine {entry.block} was removed just now", retry_after_s=1)
        return changed


def asleep(entry: Entry) -> Problem:
    """There is nothing to work on."""
    detail = f"machine {entry.block} is asleep in snapshot {entry.snapshot or '(none)'}: wake it first"
    return Problem(409, "conflict", detail=detail, snapshot_id=entry.snapshot or None)


def _indestructible(name: str) -> Problem:
    detail = (
        f"destroy_after: machine '{name}' is one of your own, which Poorwill cannot destroy: send destroy_after=false "
        "and stop it by hand, or name a provider block that has the account it was rented with: in the id, as "
        "<provider block>:<instance id>, or, if the machine has a block already, in that"
    )
    return Problem(422, "invalid-request", detail=detail)


def _check_rents(source: AnyProvider, name: str) -> None:
    if isinstance(source, OwnMachines):
        detail = (
            f"provider '{name}' has only machines of your own, none to rent: write the id as <provider block>:<any "
            "name>, set POORWILL_API_PROVIDER to a provider that rents, or give ssh_host of a machine that exists"
        )
        raise Problem(422, "invalid-request", detail=detail)


def _no_ssh(name: str) -> Problem:
    detail = f"ssh_host: '{name}' is a directory of the workers' host and is not reached over SSH: leave it out"
    return Problem(422, "invalid-request", detail=detail)


def _reached(reach: Reach) -> dict[str, Any]:
    """The fields of a block that the client told."""
    told: dict[str, Any] = {"ssh_user": reach.ssh_user, "host_key": reach.host_key}
    if reach.ssh_host is not None:
        told.update(ssh_host=reach.ssh_host, ssh_port=reach.ssh_port)
    return {name: value for name, value in told.items() if value is not None}
