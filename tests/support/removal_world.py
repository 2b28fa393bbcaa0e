"""A store to which everything happens that can: snapshots are taken, removed, brought back, and cut off at any write.

The control side is the real one. Only the engine, which would read a disk, is stood in for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from poorwill.control.records import catalog, trash
from poorwill.control.records.holdings import Holdings
from poorwill.control.records.trash import Trashed
from poorwill.control.removal import deletion, purging, retention
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.errors import NotFound, Refused, UploadLost
from poorwill.snapshot import keys
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.order import SnapshotOrder
from poorwill.snapshot.retention_policy import Policy
from tests.support.memory_store import Died, MemoryStore, Process
from tests.support.small_engine import SmallEngine, missing_pieces

GRACE_S = 48 * 3600.0
MACHINES = ("m1", "m2")
PATIENCE_S = 60.0
Op = tuple[Any, ...]
"""A method `op_<name>` of the world, and its arguments. Numbers choose among what there is, and may be any."""


@dataclass
class Taking:
    """A run that takes a snapshot, in a process of its own."""

    process: Process
    run: SnapshotRun
    pieces: frozenset[int]
    stage: int = 0

    @property
    def owner(self) -> Owner:
        return self.run.order.machine, self.run.order.snapshot_id


class RemovalWorld:
    """One store, runs that take snapshots, and whoever removes and brings back. Any of them may die at any write, and
    another one may come between any two calls."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.live: list[Taking] = []
        self.cut: list[Taking] = []  # dead; its pending record may be there
        self.given_up: set[Owner] = set()
        self.written: list[tuple[frozenset[int], Metadata]] = []  # what runs were told that they had committed
        self.taken = 0
        self.died = False  # whether the process of the last operation did

    def act(self, op: Op, dies_at: int | None = None, between: tuple[int, Op] | None = None) -> bool:
        """One operation, at a write of which its process may die, or before a call of which another one happens.

        Returns whether that call was reached.
        """
        process, happened = Process(self.store), list[bool]()

        def other() -> None:
            assert between is not None
            happened.append(True)
            self.do(between[1], Process(self.store))

        self.died = False
        process.begin(dies_at, (between[0], other) if between is not None else None)
        self.do(op, process)
        return bool(happened)

    def alternate(self, first: Op, calls: int, second: Op, then_calls: int) -> tuple[bool, bool]:
        """So many calls of the first, so many of the second, the rest of the first, the rest of the second.

        Returns whether the first and the second had as many.
        """
        reached, paused, go_on = [False, False], threading.Event(), threading.Event()

        def pause() -> None:
            reached[1] = True
            paused.set()
            assert go_on.wait(PATIENCE_S)

        def work() -> None:
            try:
                process = Process(self.store)
                process.begin(None, (then_calls, pause))
                self.do(second, process)
            finally:
                paused.set()

        def switch() -> None:
            reached[0] = True
            other.start()
            assert paused.wait(PATIENCE_S)

        with ThreadPoolExecutor(1) as pool:
            other = _Started(pool, work)
            process = Process(self.store)
            process.begin(None, (calls, switch))
            try:
                self.do(first, process)
            finally:
                go_on.set()
            other.result()
        return reached[0], reached[1]

    def do(self, op: Op, process: Process) -> None:
        name, *arguments = op
        try:
            getattr(self, f"op_{name}")(process, *arguments)
        except Died:
            self.died = True

    def op_begin(self, process: Process, machine: str, wanted: frozenset[int], parent: int | None) -> Taking | None:
        """Take a snapshot, as far as its plan: an increment of any other one, or of the machine's latest."""
        self.taken += 1
        found = _chosen(list(catalog.names(self.store)), parent)
        order = SnapshotOrder(
            machine, f"20260101T000000Z-{self.taken:08x}", "/workspace", "i",
            parent=found[1] if found else None, allow_shrink=True,
        )  # fmt: skip
        return self._open(process, order, wanted)

    def _open(self, process: Process, order: SnapshotOrder, wanted: frozenset[int]) -> Taking | None:
        engine: Any = SmallEngine(process, wanted)
        taking = Taking(process, SnapshotRun(process, engine, order, doubt=lambda store, parent: None), wanted)
        try:
            if taking.run.open() is not None:
                taking.stage = 2  # it was committed before its process died
        except (NotFound, Refused):
            return None  # the parent that was asked for, or the snapshot itself, was removed
        except Died:
            self.cut.append(taking)
            raise
        try:
            if taking.stage == 0:
                taking.run.scan()  # which may not fail: what it is compared with is held on to
        except Died:
            self.cut.append(taking)
            raise
        self.live.append(taking)
        return taking

    def op_whole(self, process: Process, machine: str, wanted: frozenset[int]) -> None:
        """A snapshot from its beginning to its end."""
        taking = self.op_begin(process, machine, wanted, None)
        while taking is not None and taking.stage < 3:
            self._advance(taking)

    def op_take(self, process: Process, snapshot_id: str, wanted: frozenset[int]) -> None:
        """A snapshot of that id, from its beginning to its end, or until the run is overtaken."""
        order = SnapshotOrder(MACHINES[0], snapshot_id, "/workspace", "i", allow_shrink=True)
        engine: Any = SmallEngine(process, wanted)
        taking = Taking(process, SnapshotRun(process, engine, order, doubt=lambda store, parent: None), wanted)
        with suppress(NotFound, Refused, UploadLost):
            if taking.run.open() is None:
                taking.run.scan()
                self._advance(taking)
                self.written.append((wanted, taking.run.write_metadata()))
            taking.run.remove_pending()

    def op_delete_by_force(self, process: Process, snapshot_id: str) -> None:
        with suppress(NotFound, Refused):
            deletion.delete(process, snapshot_id, force=True, threads=1)

    def op_advance(self, process: Process, number: int) -> None:
        """Pack, commit, or end a run. Nothing of that may ever fail: what a run counts on is there."""
        taking = _chosen(self.live, number)
        if taking is not None:
            taking.process.begin(process.dies_at, process.meanwhile)
            self._advance(taking)

    def _advance(self, taking: Taking) -> None:
        self.live = _without(self.live, taking)  # nobody else moves it on meanwhile
        try:
            if taking.stage == 0:
                for number in list(taking.run.planned):
                    taking.run.pack_part(number)
                assert not taking.run.settle()
            elif taking.stage == 1:
                taking.run.write_metadata()
            else:
                taking.run.remove_pending()
        except Died:
            self.cut.append(taking)
            raise
        taking.stage += 1
        if taking.stage < 3:
            self.live.append(taking)

    def op_finish(self, process: Process, number: int) -> None:
        """A run goes on to its end."""
        taking = _chosen(self.live, number)
        if taking is not None:
            taking.process.begin(process.dies_at, process.meanwhile)
            while taking.stage < 3:
                self._advance(taking)

    def op_die(self, process: Process, number: int) -> None:
        """A run is killed between two of its calls."""
        taking = _chosen(self.live, number)
        if taking is not None:
            taking.process.dead = True
            self.live = _without(self.live, taking)
            self.cut.append(taking)

    def op_resume(self, process: Process, number: int) -> None:
        """A run that was cut off is begun again with its id."""
        taking = _chosen(self.cut, number)
        if taking is not None and taking.owner not in self.given_up:
            self.cut = _without(self.cut, taking)
            self._open(process, taking.run.order, taking.pieces)

    def op_forget(self, process: Process, number: int) -> None:
        """Somebody removes the pending record of a run that was cut off, by hand."""
        taking = _chosen(self.cut, number)
        if taking is not None:
            process.delete(keys.pending(*taking.owner))

    def op_give_up(self, process: Process, number: int) -> None:
        """Somebody deletes, with force, what a run was taking that was cut off."""
        taking = _chosen(self.cut, number)
        if taking is not None:
            self.cut = [other for other in self.cut if other.owner != taking.owner]
            self.given_up.add(taking.owner)
            try:
                deletion.delete(process, taking.owner[1], force=True, threads=1)
            except (NotFound, Refused):
                pass

    def op_retain(self, process: Process, last: int, grace_s: float) -> None:
        holdings = Holdings(process, threads=1)
        try:
            planned = retention.plan(holdings, Policy(last=last), grace_s)
            retention.apply(holdings, planned.going, grace_s)
        except Refused as error:
            raise AssertionError(error.message) from None

    def op_purge(self, process: Process, grace_s: float) -> None:
        """The second half of a retention alone."""
        purging.purge(Holdings(process, threads=1), grace_s)

    def op_delete(self, process: Process, number: int) -> None:
        owner = _chosen(self._removable(), number)
        if owner is not None:
            try:
                deletion.delete(process, owner[1], threads=1)
            except (NotFound, Refused):
                pass  # gone meanwhile, or being taken

    def _removable(self) -> list[Owner]:
        return sorted({*catalog.names(self.store), *self._in_trash()})

    def op_undelete(self, process: Process, number: int) -> None:
        owner = _chosen(self._in_trash(), number)
        if owner is not None:
            try:
                trash.undelete(process, owner[1])
            except (NotFound, Refused, UploadLost):
                pass  # its removal has begun, or is over

    def op_wait(self, process: Process, hours: int) -> None:
        self.store.now_s += hours * 3600

    def _in_trash(self) -> list[Owner]:
        found = (keys.owner_of(info.key) for info in self.store.list(keys.TRASH) if info.key.endswith(".json"))
        return [owner for owner in found if owner is not None]

    def check(self) -> None:
        """Every committed snapshot is whole, and so is what can be brought back."""
        self.every_committed_snapshot_is_whole()
        self.what_can_be_brought_back_is_whole()

    def every_committed_snapshot_is_whole(self) -> None:
        for owner in catalog.names(self.store):
            assert missing_pieces(self.store, catalog.read(self.store, *owner)) == [], owner

    def what_can_be_brought_back_is_whole(self) -> None:
        """What is in the trash, and not marked, lacks nothing; unless two removed it at once, and all of it is gone."""
        for owner in self._in_trash():
            key = keys.trash(*owner)
            if keys.removing(*owner) not in self.store.objects and keys.manifest(*owner) in self.store.objects:
                record = Trashed.unseal(self.store.get(key), key)
                assert missing_pieces(self.store, record) == [], owner

    def settle(self) -> None:
        """Runs that are under way go to their end: what they count on is there."""
        for taking in [*self.live]:
            taking.process.begin(None, None)
            while taking.stage < 3:
                self._advance(taking)
        self.check()

    def end(self) -> None:
        """When every run has ended, the garbage goes: what is left is what committed snapshots need."""
        process = Process(self.store)
        self.settle()
        while self.cut:
            self.op_give_up(process, 0)
        for info in list(self.store.list(keys.PENDING)):  # of undeletions that were cut off
            owner = keys.owner_of(info.key)
            assert owner is not None
            deletion.delete(process, owner[1], force=True, threads=1)
        for _ in range(3):
            self.op_retain(process, 1, GRACE_S)
            self.store.now_s += GRACE_S
        assert self.store.uploads == {}
        self.every_committed_snapshot_is_whole()
        needed = {key for owner in catalog.names(self.store) for key in self._needed(owner)}
        sources = {keys.owner_of(key) for key in needed if key.startswith(keys.PARTS)}
        for key in self.store.objects:
            owner = keys.marked_owner(key) or keys.owner_of(key)
            kept_record = owner in sources and not key.startswith(keys.PARTS)
            assert key in needed or kept_record, key
        assert len(list(catalog.names(self.store))) <= len(MACHINES)

    def _needed(self, owner: Owner) -> set[str]:
        document = catalog.read(self.store, *owner)
        own = {keys.metadata(*owner), keys.manifest(*owner), keys.trash(*owner), keys.removing(*owner)}
        return own | {part.key for part in document.parts}


class _Started:
    """Work on another thread, once it is started."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[[], None]) -> None:
        self._pool, self._work = pool, work
        self._future: Future[None] | None = None

    def start(self) -> None:
        self._future = self._pool.submit(self._work)

    def result(self) -> None:
        """Raises what the work raised."""
        if self._future is not None:
            self._future.result(PATIENCE_S)


def _chosen(items: list[Any], number: int | None) -> Any:
    return items[number % len(items)] if items and number is not None else None


def _without(items: list[Taking], taking: Taking) -> list[Taking]:
    return [other for other in items if other is not taking]
