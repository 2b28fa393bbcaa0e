"""Waking, step 1: a machine to wake on."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from prefect import task
from prefect.runtime import flow_run

from blocks.lookup import machine_if_any, provider_block, save_machine, store_block
from blocks.machines import Machine
from blocks.providers import AnyProvider
from poorwill.control.machine import provisioning
from poorwill.control.machine.provisioning import Noted
from poorwill.control.records import intents
from poorwill.errors import PoorwillError, Refused, UsageError
from poorwill.providers.base import Instance, Wish
from tasks.retries import policy, transient_in_time

START_TIMEOUT_S = 900.0
"""A machine that takes longer bills, and would not start in twice that either: it is not tried again."""


@task(name="provision", **policy(transient_in_time))
def provision(
    name: str,
    machine: str,
    store: str,
    provider: str | None,
    snapshot_id: str,
    wish: Wish,
    timeout_s: float = START_TIMEOUT_S,
) -> dict[str, Any]:
    """Create a machine, or adopt the one that an interrupted wake of this snapshot had created.

    The intent is in the store before, and the machine's block names the instance after. Refused if the
    machine is awake already.

    `name` is that of the machine's block, which is written, `machine` the name its snapshots are kept under. Without a
    `provider` it is the one of the machine's block. `timeout_s`: how long the machine may take until it runs.
    """
    block = machine_if_any(name)
    source = source_of(name, block, provider)
    opened, wanted = source.open(), wish.check()
    noted = Noted(block.instance, block.status, block.provider.open()) if block is not None else None
    with closing(store_block(store).open()) as records:
        begun = provisioning.begin(
            records, opened, machine, snapshot_id, wish=wanted, noted=noted, flow_run=str(flow_run.id or "")
        )
        instance, intent, adopted = provisioning.provision(records, opened, begun, wanted, timeout_s)
    block = block or Machine(name=machine, provider=source)
    if block.instance != instance.id:
        block.host_key, block.ssh_host = "", ""  # they were of another instance
    block.provider, block.instance, block.snapshot = source, instance.id, snapshot_id
    block.status = "awake" if intent.woken else "waking"
    save_machine(name, block)
    return {
        "instance": instance.id,
        "label": intent.label,
        "adopted": adopted,
        "woken": intent.woken,
        "price_per_hour": instance.price_per_hour,
    }


def source_of(name: str, block: Machine | None, provider: str | None) -> AnyProvider:
    """The block of the provider that a machine comes from. UsageError if there is none."""
    if provider is not None:
        return provider_block(provider)
    if block is None:
        raise UsageError(f"machine {name} has no block yet: say which provider to wake it with")
    return block.provider


def note_awake(name: str, store: str, label: str) -> None:
    """The machine is whole: say so in the store first, where it stays until the machine is gone, then in its block."""
    block = machine_if_any(name)
    if block is None:
        raise Refused(f"the block of machine {name} was removed while it was being woken")
    with closing(store_block(store).open()) as records:
        provisioning.mark_woken(records, label)
    block.status = "awake"
    save_machine(name, block)


def note_partial(machine: str, store: str, instance: str, partial: bool) -> None:
    """Put into the store whether a machine is woken in part: before that begins, or when all of it is restored."""
    with closing(store_block(store).open()) as records:
        intents.note_partial(records, machine, instance, partial)


def discard(name: str, machine: str, store: str, provider: str | None, snapshot_id: str) -> str:
    """Destroy what was provisioned for a wake that failed. Returns what became of it, for the error's message.

    Never raises: the reason for the failure is on its way. "" if nothing had been created.
    """
    try:
        source = source_of(name, machine_if_any(name), provider).open()
        with closing(store_block(store).open()) as records:
            known = intents.of_machine(records, machine)
            own = [each for each in known if (each.snapshot_id, each.provider) == (snapshot_id, source.describe())]
            said = [provisioning.discard(records, source, intent.label) for intent in own]
        block = machine_if_any(name)
        if block is not None and block.status == "waking" and not source.exists(block.instance):
            block.instance, block.status = "", "asleep"
            save_machine(name, block)
        return "; ".join(filter(None, said))
    except Exception as error:
        why = error.message if isinstance(error, PoorwillError) else type(error).__name__
        return f"a machine that was created for it {provisioning.MAY_BILL}, wake it again or destroy it by hand ({why})"


def still_billing(name: str, machine: str, store: str, provider: str | None) -> list[Instance]:
    """The machines that records of the store and a provider know of for one machine's name. PoorwillError."""
    source = source_of(name, machine_if_any(name), provider).open()
    with closing(store_block(store).open()) as records:
        known = [intent for intent in intents.of_machine(records, machine) if intent.provider == source.describe()]
    return [instance for intent in known for instance in source.list_by_label(intent.label)]
