"""The way out of a failed verification, as docs/operating.md has it, word by word."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import blocks
from deployments.demo.tree_listing import differences, list_tree
from flows.hibernate import hibernate
from flows.wake import wake
from poorwill.errors import Corrupt
from tasks.events import PACKS_IN_FULL
from tests.flows.test_hibernate_and_wake import artifacts, small
from tests.support.flow_world import SNAPSHOT_ID, World
from tests.support.hooked_store import hooked
from tests.support.program import poorwill
from tests.support.told_events import told

MANUAL = Path(__file__).parents[2] / "docs" / "operating.md"


def commands() -> list[list[str]]:
    """Those of the section in the manual."""
    section = MANUAL.read_text().split("### When a verification failed")[1].split("\n## ")[0]
    return [shlex.split(line[2:]) for line in re.findall(r"^\$ .*$", section, re.MULTILINE)]


def rot(world: World) -> None:
    """A bit of the first part, while the snapshot is being taken."""
    (part, *_) = sorted((world.folder / "store" / "parts").rglob("[0-9][0-9]"))
    data = bytearray(part.read_bytes())
    data[10] ^= 1
    part.write_bytes(data)


def test_the_manual(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part rots before it is read back: the machine stays, and the message says so and what to do. The manual's
    commands put it to sleep whole, tell why all was packed, and leave nothing of the bad snapshot."""
    expected = list_tree(world.machine(small))
    instance, opened = world.block().instance, blocks.LocalStore.open

    def rotting(block: blocks.LocalStore) -> object:
        return hooked(opened(block), after={"put": lambda key, _: rot(world) if key.startswith("snapshots/") else None})

    with monkeypatch.context() as patch:
        patch.setattr(blocks.LocalStore, "open", rotting)
        with pytest.raises(Corrupt) as failed:
            hibernate(**world.hibernation())
    assert f"snapshot {SNAPSHOT_ID} cannot be read back" in failed.value.message
    assert f"instance {instance} of {world.name} was not destroyed and goes on billing" in failed.value.message
    assert world.provider.exists(instance)

    (first, second) = commands()
    assert first == ["poorwill", "hibernate", "trainer"]  # what the program asks the server for is this:
    done = hibernate(world.name, world.store_name)
    assert done["destroyed"] and done["parent"] is None and SNAPSHOT_ID in done["packs_in_full"]
    assert "packs in full" in told(PACKS_IN_FULL, "snapshot", done["snapshot_id"])[0]["message"]
    assert any(done["packs_in_full"] in str(a.data) for a in artifacts("snapshot"))

    given = {"20260101T000000Z-00000001": SNAPSHOT_ID, "s3://bucket/poorwill": world.store.url}
    ran = poorwill(*(given.get(word, word) for word in second[1:]))
    assert ran.code == 0, ran.err
    assert not any(SNAPSHOT_ID in key for key in world.keys(""))
    woken = wake(f"latest:{world.name}", world.store_name, machine=world.name)
    assert differences(expected, list_tree(world.workspace(woken["instance"]))) == []
