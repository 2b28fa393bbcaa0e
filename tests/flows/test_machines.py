"""Machines that bill, against a real Prefect server: reap, replicate, and a wake that dies with its machine created."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

import blocks
from blocks.lookup import store_names
from deployments.demo.tree_listing import differences, list_tree
from flows.hibernate import hibernate
from flows.reap import reap
from flows.replicate import replicate
from flows.slots import held_machines, machine_slot
from flows.snapshot import snapshot
from flows.wake import wake
from poorwill.control.machine import provisioning
from poorwill.control.records import intents
from poorwill.errors import Refused
from poorwill.providers.base import Wish
from tasks.events import STILL_BILLING
from tests.flows.test_hibernate_and_wake import artifacts, small
from tests.support import told_events
from tests.support.flow_world import SNAPSHOT_ID, World

PARTS = 2


def created(world: World, machine: str) -> str:
    """The instance of a wake of `machine` that was cut off once it had its machine."""
    begun = provisioning.begin(world.store, world.provider, machine, SNAPSHOT_ID)
    return provisioning.provision(world.store, world.provider, begun, Wish(), 10)[0].id


def states(result: dict[str, Any]) -> dict[str, str]:
    return {found["instance"]: found["state"] for found in result["machines"]}


def newest(key: str) -> list[dict[str, Any]]:
    """The rows of the newest table artifact of a key."""
    return list(json.loads(max(artifacts(key), key=lambda artifact: artifact.created).data))


def forget_other_stores(world: World) -> None:
    """Other tests' stores: some are no more, some never were within reach."""
    for name in store_names():
        if not name.endswith(f"/{world.store_name}"):
            slug, _, document = name.partition("/")
            kind = next(kind for kind in (blocks.LocalStore, blocks.S3Store) if kind.get_block_type_slug() == slug)
            kind.delete(document)


def test_reap(world: World) -> None:
    """The orphan alone is destroyed, and only with everything read: not what was awake, is held, or is another's."""
    orphan, lost, held = (created(world, f"{world.name}-{name}") for name in ("orphan", "lost", "held"))
    provisioning.mark_woken(world.store, intents.of_machine(world.store, f"{world.name}-lost")[0].label)
    theirs = world.provider.create("poorwill-00000000-m-0123456789ab", Wish()).id
    interrupted = blocks.Machine(
        provider=blocks.LocalProvider.load(world.provider_name), instance=orphan, status="waking", name="any"
    )
    interrupted.save(f"{world.name}-orphan")
    only = {"provider": world.provider_name, "store": world.store_name}
    expected = {orphan: "orphan", lost: "awake, no block", held: "waking", theirs: "foreign"}

    with machine_slot(f"{world.name}-held"):
        assert f"{world.name}-held" in held_machines()
        assert set(states(reap(**only)).values()) == {"waking", "awake, no block", "foreign"}  # within the grace
        told = reap(**only, grace="0s")
        assert states(told) == expected and told["orphans"] == [orphan] and world.provider.exists(orphan)
        (event,) = told_events.told(STILL_BILLING, "machine", f"{world.name}-orphan")
        assert event["instance"] == orphan and "destroy=True" in event["message"]
        assert [row["state"] for row in newest("machines")] == ["awake, no block", "foreign", "orphan", "waking", ""]

        forget_other_stores(world)
        blocks.LocalStore(directory="nowhere").save(f"{world.name}-unreadable")
        with pytest.raises(Refused, match=f"{world.name}-unreadable"):
            reap(world.provider_name, grace="0s", destroy=True)
        assert newest("machines")[-1]["note"] == "4 rows" and world.provider.exists(orphan)
        blocks.LocalStore.delete(f"{world.name}-unreadable")

        done = reap(world.provider_name, grace="0s", destroy=True)
    assert done["destroyed"] == [orphan] and not world.provider.exists(orphan)
    assert {path.name for path in world.provider.root.iterdir()} == {lost, held, theirs}
    assert blocks.Machine.load(f"{world.name}-orphan").status == "asleep" and len(world.keys("intents/")) == 2


def test_replicate(world: World) -> None:
    """One that fails is named with its reason while the others wake; begun again, it wakes that one and keeps them."""
    expected = list_tree(world.machine(small))
    snapshot(**world.hibernation(parts=PARTS))
    names = [f"{world.name}-1", f"{world.name}-2"]
    stray = world.provider.create("by-hand", Wish()).id
    source = blocks.LocalProvider.load(world.provider_name)
    blocks.Machine(provider=source, instance=stray, name=names[0]).save(names[0])

    parameters = {"snapshot": SNAPSHOT_ID, "store": world.store_name, "count": 2, "provider": world.provider_name}
    with pytest.raises(Refused, match=rf"1 of 2 .*{names[0]}: .*{stray}.*Awake: {names[1]};") as refused:
        replicate(**parameters)
    assert refused.value.facts["awake"] == names[1:] and list(refused.value.facts["failed"]) == names[:1]
    assert [row["state"] for row in newest("replicas")] == ["failed", "awake"]
    kept = blocks.Machine.load(names[1]).instance

    world.provider.destroy(stray, 10)
    done = replicate(**parameters)
    assert done["awake"] == names and done["kept"] == names[1:] and done["failed"] == {}
    instances = [blocks.Machine.load(name).instance for name in names]
    assert instances[1] == kept != instances[0]
    for instance in instances:
        assert differences(expected, list_tree(world.workspace(instance))) == []
    with get_client(sync_client=True) as client:
        runs = {run.name for run in client.read_flow_runs()}
    assert {f"replica-{name}" for name in names} <= runs


def test_a_wake_killed_with_its_machine_created(world: World, tmp_path: Path) -> None:
    """Its block does not name the machine: reap reports it, and the next wake of the snapshot adopts it."""
    expected = list_tree(world.machine(small))
    hibernate(**world.hibernation(parts=PARTS))
    parameters = {"snapshot": SNAPSHOT_ID, "store": world.store_name, "machine": world.name}
    world.killed_at("wake", parameters, "before-put:intents/:2")
    (left,) = (path.name for path in world.provider.root.iterdir())
    assert world.block().instance == "" and intents.of_machine(world.store, world.name)[0].instance == ""

    only = {"provider": world.provider_name, "store": world.store_name}
    assert states(reap(**only, destroy=True)) == {left: "waking"}
    assert states(reap(**only, grace="0s")) == {left: "orphan"}
    assert wake(**parameters)["instance"] == left == world.block().instance
    assert states(reap(**only, grace="0s", destroy=True)) == {left: "awake"}
    assert differences(expected, list_tree(world.workspace(left))) == []
