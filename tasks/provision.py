"""Waking, step 1: a machine to wake on."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from prefect import task

from blocks.lookup import machine_if_any, provider_block, save_machine, store_block
from blocks.machines import Machine
from blocks.providers import LocalProvider
from poorwill.control import provisioning
from poorwill.errors import PoorwillError, Refused, UsageError
from poorwill.providers.base import Wish
from tasks.retries import policy

START_TIMEOUT_S = 900.0


@task(name="provision", **policy())
def provision(
    name: str,
    machine: str,
    store: str,
    provider: str | None,
    snapshot_id: str,
    wish: dict[str, Any],
    timeout_s: float = START_TIMEOUT_S,
) -> dict[str, Any]:
    """Create a machine, or adopt the one that an interrupted wake of this snapshot had created.

    The intent is in the store before, and the machine's block names the instance after. Refused if the
    machine is awake already.

    Args:
        name: of the machine's block, which is written.
        machine: the name its snapshots are kept under.
        store: name of a store block.
        provider: name of a provider block; None: the one of the machine's block.
        snapshot_id: what it will be woken from.
        wish: gpu, gpu_count, region, price_per_hour_max, disk_gb.
        timeout_s: how long the machine may take until it runs.
    """
    block = machine_if_any(name)
    source = _source(name, block, provider)
    opened = source.open()
    with closing(store_block(store).open()) as records:
        _refuse_awake(name, block, {intent.instance for intent in provisioning.open_intents(records, machine)})
        intent = provisioning.open_intent(records, opened, machine, snapshot_id)
        instance, intent, adopted = provisioning.provision(records, opened, intent, Wish(**wish).check(), timeout_s)
    status = "awake" if intent.woken else "waking"
    save_machine(
        name, Machine(name=machine, provider=source, instance=instance.id, status=status, snapshot=snapshot_id)
    )
    return {
        "instance": instance.id,
        "label": intent.label,
        "adopted": adopted,
        "woken": intent.woken,
        "price_per_hour": instance.price_per_hour,
    }


def _source(name: str, block: Machine | None, provider: str | None) -> LocalProvider:
    if provider is not None:
        return provider_block(provider)
    if block is None:
        raise UsageError(f"machine {name} has no block yet: say which provider to wake it with")
    return block.provider


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


def discard(name: str, machine: str, store: str, provider: str | None, snapshot_id: str) -> str:
    """Destroy what was provisioned for a wake that failed. Returns what became of it, for the error's message.

    Never raises: the reason for the failure is on its way. "" if nothing had been created.
    """
    try:
        source = _source(name, machine_if_any(name), provider).open()
        with closing(store_block(store).open()) as records:
            said = [
                provisioning.discard(records, source, intent.label)
                for intent in provisioning.open_intents(records, machine)
                if (intent.snapshot_id, intent.provider) == (snapshot_id, source.describe())
            ]
        block = machine_if_any(name)
        if block is not None and block.status == "waking" and not source.exists(block.instance):
            block.instance, block.status = "", "asleep"
            save_machine(name, block)
        return "; ".join(filter(None, said))
    except Exception as error:
        why = error.message if isinstance(error, PoorwillError) else type(error).__name__
        return f"a machine that was created for it may still be billing, wake it again or destroy it by hand ({why})"


def _machine(name: str) -> Machine:
    block = machine_if_any(name)
    if block is None:
        raise Refused(f"the block of machine {name} was removed while it was being woken")
    return block
