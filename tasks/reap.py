"""The steps of reaping: find all machines and the evidence for each, and destroy one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from typing import Any

from prefect import task

from blocks import inventory
from blocks.lookup import bare, machine_if_any, provider_block, save_machine, store_block
from poorwill.control.machine import reaping
from poorwill.control.machine.reaping import Evidence, Finding, Named, Rule
from poorwill.errors import PoorwillError
from poorwill.store.base import Store
from tasks.retries import policy


@task(name="survey_machines", **policy())
def survey_machines(provider: str, store: str | None, grace_s: float, held: list[str]) -> dict[str, Any]:
    """Every machine with Poorwill's label and what it is; nothing is changed.

    Args:
        provider: name of a provider block.
        store: name of a store block; None: every one that Prefect knows.
        grace_s: machines younger than this are no orphans.
        held: machines that runs work on.
    """
    with evidence_of(store) as (_, evidence):
        seen = replace(evidence, held=frozenset(held))
        found = reaping.survey(provider_block(provider).open(), seen, Rule(time.time(), grace_s))
    return {"findings": [asdict(finding) for finding in found], "unreadable": list(evidence.unreadable)}


@task(name="destroy_orphan", **policy())
def destroy_orphan(provider: str, store: str | None, grace_s: float, finding: dict[str, Any]) -> None:
    """Destroy one orphan, or remove one record whose machine is gone, after reading all evidence again.

    The caller holds the machine's slot. Refused if it is no orphan any more; else errors name what still bills.
    """
    source, found = provider_block(provider).open(), Finding(**finding)
    with evidence_of(store) as (stores, evidence):
        reaping.reap_one(source, stores, found, evidence, Rule(time.time(), grace_s))
    for named in evidence.named:
        block = machine_if_any(named.block)
        # Only a block in state "waking" can have named an orphan; a record of a machine that is gone may have any.
        if block is not None and named.instance == found.instance == block.instance and named.status == "waking":
            block.instance, block.status = "", "asleep"
            save_machine(named.block, block)


@contextmanager
def evidence_of(store: str | None) -> Iterator[tuple[list[Store], Evidence]]:
    """The stores, open, and what they and the machine blocks say. Raises no PoorwillError but for a store by name."""
    with ExitStack() as opened:
        stores: dict[str, Store] = {}
        unreadable: list[str] = []
        for name in [store] if store is not None else _store_names(unreadable):
            try:
                found = opened.enter_context(closing(store_block(name).open()))
                stores.setdefault(found.describe(), found)
            except PoorwillError as error:
                if store is not None:
                    raise
                unreadable.append(f"store block {bare(name)}: {error.message}")
        named = _named(unreadable)
        evidence = reaping.read_evidence(stores.values())
        yield (
            list(stores.values()),
            replace(evidence, named=named, unreadable=(*unreadable, *evidence.unreadable)),
        )


def _store_names(unreadable: list[str]) -> list[str]:
    try:
        return inventory.store_names()
    except PoorwillError as error:
        unreadable.append(f"the list of store blocks: {error.message}")
        return []


def _named(unreadable: list[str]) -> tuple[Named, ...]:
    try:
        blocks = inventory.machines()
    except PoorwillError as error:
        unreadable.append(f"the machine blocks: {error.message}")
        return ()
    return tuple(Named(name, block.instance, block.status) for name, block in blocks.items() if block.instance)
