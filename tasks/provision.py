"""Waking, step 1: a machine to wake on."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from prefect import task

from blocks.lookup import block_name_of, machine_if_any, provider_block, save_machine, store_block
from blocks.machines import Machine
from poorwill.control import provisioning
from poorwill.errors import Refused
from poorwill.providers.base import Wish
from tasks.retries import policy

START_TIMEOUT_S = 1800.0


@task(name="provision", **policy())
def provision(
    machine: str, store: str, provider: str | None, snapshot_id: str, wish: dict[str, Any], timeout_s: float = START_TIMEOUT_S
) -> dict[str, Any]:
    """Create a machine, or adopt the one that an interrupted wake of this snapshot had created.

    The intent is in the store before, and the machine's block names the instance after. Refused if the
    machine is awake already.

    Args:
        machine: the name its snapshots are kept under.
        store: name of a store block.
        provider: name of a provider block; None: the one of the machine's block.
        snapshot_id: what it will be woken from.
        wish: gpu, gpu_count, region, price_per_hour_max, disk_gb.
        timeout_s: how long the machine may take until it runs.
    """
    name = block_name_of(machine)
    block = machine_if_any(name)
    source = provider_block(provider) if provider is not None or block is None else block.provider
    opened = source.open()
    with closing(store_block(store).open()) as records:
        _refuse_awake(name, block, {intent.instance for intent in provisioning.open_intents(records, machine)})
        intent = provisioning.open_intent(records, opened, machine, snapshot_id)
        instance, intent, adopted = provisioning.provision(records, opened, intent, Wish(**wish).check(), timeout_s)
    status = "awake" if intent.woken else "waking"
    save_machine(name, Machine(name=machine, provider=source, instance=instance.id, status=status, snapshot=snapshot_id))
    return {
        "machine": name,
        "instance": instance.id,
        "label": intent.label,
        "adopted": adopted,
        "woken": intent.woken,
        "price_per_hour": instance.price_per_hour,
    }


def _refuse_awake(name: str, block: Machine | None, unfinished: set[str]) -> None:
    if block is None or not block.instance or block.instance in unfinished:
        return
    if block.provider.open().exists(block.instance):
        raise Refused(
            f"machine {name} is awake as instance {block.instance}: hibernate it first, "
            f"or give machine='{name}' to restore onto it"
        )


def note_awake(name: str, store: str, label: str) -> None:
    """The machine is whole: say so in the store first, then in its block, and close the intent last."""
    block = _machine(name)
    with closing(store_block(store).open()) as records:
        for intent in provisioning.open_intents(records, block.name):
            if intent.label == label:
                provisioning.mark_woken(records, intent)
        block.status = "awake"
        save_machine(name, block)
        provisioning.close_intent(records, label)


def discard(name: str, store: str, label: str) -> str:
    """Destroy a machine that could not be woken. Returns what became of it, for the error's message."""
    block = _machine(name)
    with closing(store_block(store).open()) as records:
        said = provisioning.discard(records, block.provider.open(), label)
    if not block.provider.open().exists(block.instance):
        block.instance, block.status = "", "asleep"
        save_machine(name, block)
    return said


def _machine(name: str) -> Machine:
    block = machine_if_any(name)
    if block is None:
        raise Refused(f"the block of machine {name} was removed while it was being woken")
    return block
