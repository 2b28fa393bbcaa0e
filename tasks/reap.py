"""The steps of reaping: find all machines and the evidence for each, and destroy one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace

from prefect import task

from blocks.lookup import bare, machine_blocks, machine_if_any, provider_block, save_machine, store_block, store_names
from poorwill.control.machine import reaping
from poorwill.control.machine.reaping import Evidence, Finding, Named, Rule
from poorwill.errors import PoorwillError
from poorwill.store.base import Store
from tasks.retries import policy


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What there is at a provider, and what could not be read."""

    findings: list[Finding]
    unreadable: tuple[str, ...]


@task(name="survey_machines", **policy())
def survey_machines(provider: str, store: str | None, grace_s: float, held: frozenset[str]) -> Surveyed:
    """Every machine with Poorwill's label and what it is; nothing is changed. Without a `store`: of every store block.

    Machines younger than `grace_s` are no orphans, nor are those in `held`, which runs work on.
    """
    with _evidence_of(store) as (_, evidence):
        seen = replace(evidence, held=held)
        found = reaping.survey(provider_block(provider).open(), seen, Rule(time.time(), grace_s))
    return Surveyed(found, evidence.unreadable)


@task(name="destroy_orphan", **policy())
def destroy_orphan(provider: str, store: str | None, grace_s: float, found: Finding) -> None:
    """Destroy one orphan, or remove one record whose machine is gone, after reading all evidence again.

    The caller holds the machine's slot. Refused if it is no orphan any more; else errors name what still bills.
    """
    source = provider_block(provider).open()
    with _evidence_of(store) as (stores, evidence):
        reaping.reap_one(source, stores, found, evidence, Rule(time.time(), grace_s))
    for named in evidence.named:
        block = machine_if_any(named.block)
        # Only a block in state "waking" can have named an orphan; a record of a machine that is gone may have any.
        if block is not None and named.instance == found.instance == block.instance and named.status == "waking":
            block.instance, block.status = "", "asleep"
            save_machine(named.block, block)


@contextmanager
def _evidence_of(store: str | None) -> Iterator[tuple[list[Store], Evidence]]:
    """The stores, open, and what they and the machine blocks say. Raises no PoorwillError but for a store by name."""
    stores: dict[str, Store] = {}
    unreadable: list[str] = []
    names = [store] if store is not None else []
    named: tuple[Named, ...] = ()
    if store is None:
        with _noted(unreadable, "the list of store blocks"):
            names = store_names()
    with ExitStack() as opened:
        for name in names:
            with _noted(unreadable, f"store block {bare(name)}") if store is None else nullcontext():
                found = opened.enter_context(closing(store_block(name).open()))
                stores.setdefault(found.describe(), found)
        with _noted(unreadable, "the machine blocks"):
            blocks = machine_blocks()
            named = tuple(Named(name, block.instance, block.status) for name, block in blocks.items() if block.instance)
        evidence = reaping.read_evidence(stores.values())
        seen = replace(evidence, named=named, unreadable=(*unreadable, *evidence.unreadable))
        yield list(stores.values()), seen


@contextmanager
def _noted(unreadable: list[str], what: str) -> Iterator[None]:
    """Note an error that is raised inside, and go on."""
    try:
        yield
    except PoorwillError as error:
        unreadable.append(f"{what}: {error.message}")
