"""Two operations on a store at the same time, at every call of the one: the races of removal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.removal_world import GRACE_S, Op, RemovalWorld

pytestmark = pytest.mark.long

CALLS_MAX = 400
OLD, CHILD = frozenset({1, 2}), frozenset({2, 3})


def old_and_running() -> RemovalWorld:
    """A snapshot that can go, a run packed that borrows from it, and a newer one that does not."""
    world = RemovalWorld()
    world.act(("whole", "m1", OLD))
    world.act(("begin", "m1", CHILD, 0))
    world.act(("advance", 0))
    world.act(("whole", "m1", frozenset({4})))
    return world


def lineage() -> RemovalWorld:
    """A snapshot, one that borrows from it, and a newer one that does not."""
    world = RemovalWorld()
    for wanted in (OLD, CHILD, frozenset({4})):
        world.act(("whole", "m1", wanted))
    return world


def old_and_young_trash() -> RemovalWorld:
    """A snapshot in the trash whose time is over, one there that borrows from it and is younger, and a newer one."""
    world = RemovalWorld()
    world.act(("whole", "m1", OLD))
    world.act(("whole", "m1", CHILD))
    world.act(("retain", 1, GRACE_S))
    world.act(("wait", 50))
    world.act(("whole", "m1", frozenset({3, 4})))
    world.act(("retain", 1, 10 * GRACE_S))
    return world


def cut_off() -> RemovalWorld:
    """A run cut off once it had packed, whose pending record is gone, and one cut off once it had committed."""
    world = RemovalWorld()
    world.act(("whole", "m1", OLD))
    for wanted in (CHILD, frozenset({2, 4})):
        world.act(("begin", "m1", wanted, None))
        world.act(("advance", 0))
        if wanted != CHILD:
            world.act(("advance", 0))
        world.act(("die", 0))
    world.act(("forget", 0))
    world.act(("forget", 1))
    world.act(("whole", "m1", frozenset({3})))
    world.act(("wait", 50))
    return world


def planned() -> RemovalWorld:
    """A run that is about to pack."""
    world = RemovalWorld()
    world.act(("begin", "m1", OLD, None))
    return world


def unchanged() -> RemovalWorld:
    """Two snapshots of the same, so that the second has no part of its own, and a newer one."""
    world = RemovalWorld()
    for wanted in (OLD, OLD, frozenset({4})):
        world.act(("whole", "m1", wanted))
    return world


def forgotten() -> RemovalWorld:
    """A run cut off once it had packed, whose pending record is gone."""
    world = RemovalWorld()
    world.act(("begin", "m1", OLD, None))
    world.act(("advance", 0))
    world.act(("die", 0))
    world.act(("forget", 0))
    world.act(("wait", 50))
    return world


def parent() -> RemovalWorld:
    """A snapshot to borrow from."""
    world = RemovalWorld()
    world.act(("whole", "m1", OLD))
    return world


REMOVE_ALL, REMOVE_OLD, PURGE = ("retain", 1, 0.0), ("retain", 1, GRACE_S), ("purge", GRACE_S)
DELETE: Op = ("delete", 0)
RACES: tuple[tuple[Callable[[], RemovalWorld], Op, Op], ...] = (
    (old_and_running, REMOVE_ALL, ("finish", 0)),
    (old_and_running, DELETE, ("finish", 0)),
    (old_and_running, DELETE, ("begin", "m1", CHILD, 0)),
    (old_and_running, DELETE, ("whole", "m1", CHILD)),
    (lineage, DELETE, REMOVE_OLD),
    (planned, PURGE, ("advance", 0)),
    (unchanged, ("delete", 1), ("begin", "m1", CHILD, 1)),
    (old_and_young_trash, REMOVE_OLD, ("undelete", 0)),
    (old_and_young_trash, REMOVE_OLD, ("undelete", 1)),
    (old_and_young_trash, ("delete", 2), ("undelete", 1)),
    (cut_off, PURGE, ("resume", 0)),
    (cut_off, PURGE, ("resume", 1)),
    (cut_off, ("delete", 1), ("resume", 1)),
)
TWICE: tuple[tuple[Callable[[], RemovalWorld], Op, Op], ...] = (
    (forgotten, ("resume", 0), PURGE),
    (parent, ("begin", "m1", frozenset({1}), None), DELETE),
    (RemovalWorld, PURGE, ("whole", "m1", frozenset({1}))),
)


def _named(value: object) -> str:
    """The same in every process of pytest, which a function's address is not."""
    if isinstance(value, tuple):
        return " ".join(map(_named, value))
    if isinstance(value, frozenset):
        return ",".join(map(str, sorted(value)))
    return str(getattr(value, "__name__", value))


@pytest.mark.parametrize("setup, removing, using", RACES, ids=_named)
def test_one_operation_between_two_calls_of_another(setup: Callable[[], RemovalWorld], removing: Op, using: Op) -> None:
    """Nothing that is needed is lost, and everything else is removed in the end."""
    for main, other in ((removing, using), (using, removing)):
        call, reached = 0, True
        while reached:
            call += 1
            assert call < CALLS_MAX
            world = setup()
            reached = world.act(main, None, (call, other))
            world.check()
            world.settle()
        world.end()


@pytest.mark.parametrize("setup, removing, using", RACES, ids=_named)
def test_one_operation_is_killed_at_any_write(setup: Callable[[], RemovalWorld], removing: Op, using: Op) -> None:
    """The other works as if the first had not begun, or had ended; all garbage is removed."""
    for first, second in ((removing, using), (using, removing)):
        writes = 0
        while writes < CALLS_MAX:
            writes += 1
            world = setup()
            world.act(first, writes)
            world.check()
            world.act(second)
            world.check()
            world.end()
            if not world.died:
                break


@pytest.mark.parametrize("setup, first, second", TWICE, ids=_named)
def test_two_operations_interleaved(setup: Callable[[], RemovalWorld], first: Op, second: Op) -> None:
    """Each runs between two calls of the other, so that what the first has seen may have changed twice."""
    calls, first_reached = 0, True
    while first_reached:
        calls += 1
        then_calls, second_reached = 0, True
        while second_reached:
            then_calls += 1
            assert calls < CALLS_MAX and then_calls < CALLS_MAX
            world = setup()
            first_reached, second_reached = world.alternate(first, calls, second, then_calls)
            world.check()
            world.settle()
