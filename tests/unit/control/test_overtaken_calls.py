"""Two runs of one snapshot, each stopped before any call of the store's while the other one works."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poorwill.control.records import catalog
from poorwill.snapshot import keys
from tests.support.memory_store import MemoryStore
from tests.support.removal_world import MACHINES, Op, RemovalWorld

CALLS_MAX = 400
STEP = 3
"""Of the calls of the second run every third one is tried, beside all of the first."""
ID = "20260101T000000Z-00000001"
OWNER = MACHINES[0], ID
FIRST: Op = ("take", ID, frozenset({1, 2}))
SECOND: Op = ("take", ID, frozenset({2, 3, 4}))
DELETION: Op = ("delete_by_force", ID)


def check(world: RemovalWorld) -> None:
    """What is committed is whole, and is what each run was told that said it had committed it; it has its content."""
    world.check()
    if not catalog.exists(world.store, keys.metadata(*OWNER)):
        return
    there = catalog.read(world.store, *OWNER)
    for wanted, told in world.written:
        assert told == there and there.totals.files == len(wanted)


def each_way(second: Op, check_: Callable[[RemovalWorld], None]) -> int:
    """Every way in which the first run is stopped once, and the second once. Returns how many there are."""
    ways = 0
    for calls in range(1, CALLS_MAX):
        for then_calls in range(1, CALLS_MAX, STEP):
            world = RemovalWorld()
            reached = world.alternate(FIRST, calls, second, then_calls)
            check_(world)
            ways += 1
            if not reached[0]:
                return ways
            if not reached[1]:
                break
    raise AssertionError(f"more than {CALLS_MAX} calls")


def test_one_of_two_runs_commits() -> None:
    """Whatever the order: one snapshot is there, whole, and no run believes that another one was committed."""

    def one(world: RemovalWorld) -> None:
        check(world)
        assert len(world.written) <= 1

    assert each_way(SECOND, one) > 500


def test_a_run_that_is_given_up_commits_nothing_that_lacks_something() -> None:
    """Deleted by force while it works: it is gone, or was committed whole by a run that had not begun yet."""
    assert each_way(DELETION, RemovalWorld.check) > 300


@pytest.mark.parametrize("second", [SECOND, DELETION])
def test_a_run_that_is_late_changes_nothing(second: Op) -> None:
    """The other one goes to its end while it is stopped, before any of its calls: that stays byte for byte."""
    for calls in range(1, CALLS_MAX):
        world, seen = RemovalWorld(), list[dict[str, bytes]]()

        def other(world: RemovalWorld = world, seen: list[dict[str, bytes]] = seen) -> None:
            world.act(second)
            seen.append(objects(world.store))

        world.op_other = lambda process, other=other: other()  # type: ignore[attr-defined]
        reached = world.act(FIRST, None, (calls, ("other",)))
        check(world)
        if not reached:
            assert calls > 30
            return
        if world.written and second == DELETION:
            continue  # it had not begun, or it was committed before, or has been begun anew
        committed = keys.metadata(*OWNER) in seen[0]
        assert not committed or objects(world.store).items() >= seen[0].items() - pending(seen[0]).items()
    raise AssertionError(f"more than {CALLS_MAX} calls")


def objects(store: MemoryStore) -> dict[str, bytes]:
    return {key: data for key, (data, _) in store.objects.items()}


def pending(found: dict[str, bytes]) -> dict[str, bytes]:
    return {key: data for key, data in found.items() if key.startswith(keys.PENDING)}
