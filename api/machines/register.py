"""The blocks of the machines that clients name are made, or brought up to date, so that flows can work on them.

The block of a machine is never given to another one. If its address changes, the recorded host key stays, so that a
flow refuses another machine at that address. Only a new instance, or a key that the client gives, replaces the key.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from prefect.client.schemas.actions import BlockDocumentUpdate

from api.http.problems import Problem, unavailable
from api.machines.addresses import MachineAddress
from api.machines.blocks import MachineBlock, MachineBlocks, block_name
from api.runs.client import Prefect
from api.store.threads import Threads
from blocks.lookup import provider_block
from blocks.machines import Machine
from blocks.providers import AnyProvider, LocalProvider, OwnMachines
from poorwill.errors import NotFound

OWN = "own"
"""The provider block of machines that are known by their address alone, if the default one rents."""
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")


@dataclass(frozen=True, slots=True)
class ProviderInstance:
    """What an instance id means: an instance of a provider."""

    provider: str  # the name of its block
    instance: str
    source: AnyProvider


class Register:
    """Makes and updates machine blocks. `provider`: the default one, for ids that name no provider block."""

    def __init__(self, prefect: Prefect, machines: MachineBlocks, threads: Threads, provider: str) -> None:
        self._prefect, self._machines, self._threads, self._provider = prefect, machines, threads, provider
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def block_for(
        self, instance_id: str | None, address: MachineAddress, earlier: Mapping[str, Any], *, destroys: bool = False
    ) -> str:
        """The block of the machine that a request names, made or brought up to date. `earlier`: the parameters of the
        run that an earlier request with the same idempotency key created; its block is taken as it is. Problems: as
        `awake`."""
        if earlier:
            return str(earlier.get("machine"))
        if instance_id is None:
            return (await self.at(address)).block
        return (await self.awake(instance_id, address, destroys=destroys)).block

    async def awake(self, instance_id: str, address: MachineAddress, *, destroys: bool = False) -> MachineBlock:
        """The machine of that id, with an instance to work on, which can be destroyed if `destroys`.

        Problems: not-found, conflict, refused, and invalid-request for a machine that cannot be destroyed; no block is
        changed then.
        """
        async with self._one_at_a_time(instance_id):
            machine = await self._machines.find(instance_id, fresh=True)
            if machine is None:
                return await self._create(instance_id, await self._named(instance_id), address, destroys)
            if machine.status == "waking":
                raise Problem("conflict", f"machine {machine.block} is being woken: wait for that")
            if destroys and not machine.destroyable:
                raise _indestructible(machine.block)
            if machine.awake:  # the same instance, perhaps at another address
                if machine.kind == LocalProvider.get_block_type_slug() and address.ssh_host is not None:
                    raise _no_ssh(machine.block)
                return await self._update(machine, _reached(address), machine.provider_id)
            if address.ssh_host is None:
                detail = f"machine {machine.block} is asleep in snapshot {machine.snapshot or '(none)'}: wake it first"
                raise Problem("conflict", detail, snapshot_id=machine.snapshot or None)
            return await self._replace(machine, instance_id, address)

    async def at(self, address: MachineAddress) -> MachineBlock:
        """The machine at an address, where the client gives no id; `address.ssh_host` is given."""
        assert address.ssh_host is not None
        known = await self._machines.at(address.ssh_host, address.ssh_port)
        name = f"{address.ssh_host}:{address.ssh_port}"
        if known is None and await self._machines.find(name) is None:
            async with self._one_at_a_time(name):
                return await self._create(name, await self._own(name), address)
        return await self.awake(known.block if known is not None else name, address)

    async def sleeping(self, instance_id: str) -> tuple[MachineBlock, str | None]:
        """The machine of that id, to wake on a new instance, and the provider block to rent it from: None for the one
        it came from. Problems: conflict, invalid-request, not-found."""
        async with self._one_at_a_time(instance_id):
            machine = await self._machines.find(instance_id, fresh=True)
            if machine is None:
                named = await self._named(instance_id)
                _check_rents(named.source, named.provider)
                return await self._save(instance_id, named.source, instance="", status="asleep"), None
            if machine.awake:
                detail = (
                    f"machine {machine.block} is awake as instance {machine.instance}: give ssh_host to restore onto "
                    "it, or hibernate it first"
                )
                raise Problem("conflict", detail)
            if machine.destroyable:
                return machine, None
            _check_rents(await self._default(), self._provider)
            return machine, self._provider

    def _one_at_a_time(self, instance_id: str) -> asyncio.Lock:
        """A lock of this process alone: what others did at the same moment shows when the block is saved."""
        return self._locks.setdefault(block_name(instance_id), asyncio.Lock())

    async def _named(self, instance_id: str) -> ProviderInstance:
        """`<provider block>:<instance>` if there is such a block; else an instance of the default provider."""
        before, _, after = instance_id.partition(":")
        if after and _PROVIDER.fullmatch(before):
            try:
                return ProviderInstance(before, after, await self._source(before))
            except NotFound:
                pass  # the colon is a part of the id
        return ProviderInstance(self._provider, instance_id, await self._default())

    async def _default(self) -> AnyProvider:
        try:
            return await self._source(self._provider)
        except NotFound as error:
            raise NotFound(f"{error.message}, or set POORWILL_API_PROVIDER to another one") from None

    async def _source(self, name: str) -> AnyProvider:
        return await self._threads.run(lambda: provider_block(name), f"provider block '{name}'")

    async def _own(self, name: str) -> ProviderInstance:
        """A machine of one's own, under that name: providers give their instances other names than addresses."""
        source, provider = await self._default(), self._provider
        if not isinstance(source, OwnMachines):
            source, provider = await self._source(OWN), OWN
        if not isinstance(source, OwnMachines):
            raise Problem("conflict", f"provider block '{OWN}' is not of type Poorwill own machines")
        return ProviderInstance(provider, name, source)

    async def _create(
        self, instance_id: str, named: ProviderInstance, address: MachineAddress, destroys: bool = False
    ) -> MachineBlock:
        if isinstance(named.source, OwnMachines):
            if destroys:
                raise _indestructible(instance_id)
            if address.ssh_host is None:
                raise NotFound(
                    f"no machine is known as '{instance_id}': give ssh_host and ssh_port, where it is reached"
                )
        else:
            # A mistyped name must not become a block.
            asked = f"the provider '{named.provider}'"
            await self._threads.run(lambda: named.source.open().get(named.instance), asked)
            if isinstance(named.source, LocalProvider) and address.ssh_host is not None:
                raise _no_ssh(instance_id)
        return await self._save(instance_id, named.source, instance=named.instance, **_reached(address))

    async def _save(self, instance_id: str, source: AnyProvider, **fields: Any) -> MachineBlock:
        name = block_name(instance_id)
        block = Machine(provider=source, name=name, **fields)
        try:
            await self._threads.run(lambda: block.save(name), "the Prefect server")
        except ValueError:
            pass  # another process of the gateway has just made it, for the same id
        machine = await self._machines.find(name, fresh=True)
        if machine is None:
            raise unavailable(f"the block of machine {name} could not be saved")
        return machine

    async def _replace(self, machine: MachineBlock, instance_id: str, address: MachineAddress) -> MachineBlock:
        """Its instance is gone: at that address is another one, whose key is not known."""
        change = {"ssh_user": "", "host_key": "", **_reached(address), "instance": instance_id, "status": "awake"}
        if not machine.destroyable:
            return await self._update(machine, change, machine.provider_id)
        source = await self._default()
        if not isinstance(source, OwnMachines):
            detail = (
                f"machine {machine.block} sleeps in snapshot {machine.snapshot or '(none)'} and its instance is gone: "
                "give the id of the new instance in the path"
            )
            raise Problem("conflict", detail)
        return await self._update(machine, change, str(source._block_document_id))

    async def _update(self, machine: MachineBlock, data: dict[str, Any], provider_id: str) -> MachineBlock:
        if provider_id == machine.provider_id and all(getattr(machine, name) == value for name, value in data.items()):
            return machine
        # Prefect forgets a reference to another block that an update leaves out.
        reference = {"provider": {"$ref": {"block_document_id": provider_id}}} if provider_id else {}
        change = BlockDocumentUpdate(data={**data, **reference}, merge_existing_data=True)
        await self._prefect.ask(self._prefect.client.update_block_document(machine.id, change))
        changed = await self._machines.find(machine.block, fresh=True)
        if changed is None:
            raise unavailable(f"the block of machine {machine.block} was removed just now", retry_after_s=1)
        return changed


def _indestructible(name: str) -> Problem:
    detail = (
        f"destroy_after: machine '{name}' is one of your own, which Poorwill cannot destroy: send destroy_after=false "
        "and stop it by hand, or name a provider block that has the account it was rented with: in the id, as "
        "<provider block>:<instance id>, or, if the machine has a block already, in that"
    )
    return Problem("invalid-request", detail)


def _check_rents(source: AnyProvider, name: str) -> None:
    if isinstance(source, OwnMachines):
        detail = (
            f"provider '{name}' has only machines of your own, none to rent: write the id as <provider block>:<any "
            "name>, set POORWILL_API_PROVIDER to a provider that rents, or give ssh_host of a machine that exists"
        )
        raise Problem("invalid-request", detail)


def _no_ssh(name: str) -> Problem:
    detail = f"ssh_host: '{name}' is a directory of the workers' host and is not reached over SSH: leave it out"
    return Problem("invalid-request", detail)


def _reached(address: MachineAddress) -> dict[str, Any]:
    """The fields of a block that the client gave."""
    given: dict[str, Any] = {"ssh_user": address.ssh_user, "host_key": address.host_key}
    if address.ssh_host is not None:
        given.update(ssh_host=address.ssh_host, ssh_port=address.ssh_port)
    return {name: value for name, value in given.items() if value is not None}
