"""One machine, all that can happen to its workspace, and hibernations step by step, against what is really there.

The engine, the store and the files are real. Doubles stand for the clocks of the machine and the store, which can be
set, and for the machine: destroying it removes its workspace and ends its processes.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deployments.demo.tree_listing import Listing, differences, list_tree
from poorwill.control.machine.destruction import check_destroyable, check_unchanged
from poorwill.control.records import trash
from poorwill.control.records.holdings import Holdings
from poorwill.control.removal import retention
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.engine.pack.file_systems import FileSystems, now_ns
from poorwill.errors import NotFound, PoorwillError, Refused
from poorwill.snapshot import ids
from poorwill.snapshot.order import SnapshotOrder
from poorwill.snapshot.retention_policy import Policy
from poorwill.store.base import Check, Pieces
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.runs import restore
from tests.support.writers import Mapper

MACHINE = "m1"
PARTS = 2


class SteppedStore(LocalStore):
    """A store in a directory whose clock can be set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root, self.ahead_s = root, 0.0

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self._date(key)

    def put_new(self, key: str, data: bytes, check: Check = lambda: None) -> bool:
        written = super().put_new(key, data, check)
        self._date(key)
        return written

    def put_fenced(self, key: str, data: bytes, check: Check) -> None:
        super().put_fenced(key, data, check)
        self._date(key)

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        super().complete_upload(key, upload_id, pieces, size)
        self._date(key)

    def _date(self, key: str) -> None:
        at_s = time.time() + self.ahead_s
        os.utime(self.root / key, (at_s, at_s))


@dataclass
class Hibernation:
    """One that was begun: what is left of its steps, and the machine it is about to destroy."""

    snapshot_id: str
    instance: str
    allow_shrink: bool
    session: EngineSession
    steps: Iterator[None]


class GateWorld:
    """`workspace` is that of the machine while it is awake. slept: what was there when its gate opened, by snapshot."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workspace = folder, folder / "workspace"
        self.workspace.mkdir(parents=True)
        self.store = SteppedStore(folder / "store")
        self.ahead_ns = 0
        self._file_systems = FileSystems(clock=lambda: now_ns() + self.ahead_ns)
        self.mapper = Mapper()
        self.instances, self.awake, self.mounts = 1, True, list[Path]()
        self.slept: dict[str, Listing] = {}
        self.asleep_in: str | None = None
        self.partial = False
        self.running: Hibernation | None = None
        self.late: Hibernation | None = None
        self.opened = 0

    @property
    def host(self) -> ThreadHost:
        """For one engine, which ends with its session."""
        return ThreadHost(file_systems=self._file_systems)

    @property
    def instance(self) -> str:
        return f"i-{self.instances}"

    def close(self) -> None:
        for run in (self.running, self.late):
            if run is not None:
                run.session.close()
        self._power_off()

    def begin(self, *, allow_shrink: bool, writers: str, again: str | None = None) -> None:
        """Begin a hibernation, or continue the one that was cut off."""
        session = EngineSession(self.host)
        order = SnapshotOrder(
            machine=MACHINE, snapshot_id=again or ids.new_snapshot_id(), workspace=str(self.workspace),
            instance=self.instance, parts=PARTS, allow_shrink=allow_shrink, writers=writers,  # type: ignore[arg-type]
        )  # fmt: skip
        steps = self._steps(session, order)
        self.running = Hibernation(order.snapshot_id, order.instance, allow_shrink, session, steps)

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            if self.running is not None and not self._advance(self.running):
                self.running = None

    def crash(self, *, again: bool) -> None:
        """The program and the engine are killed; again: it is begun anew with the same id."""
        assert self.running is not None
        run, self.running = self.running, None
        run.session.close()
        if again and self.awake:
            self.begin(allow_shrink=run.allow_shrink, writers="refuse", again=run.snapshot_id)

    def overtake(self) -> None:
        """The program is stopped, its engine is gone, and another one continues its hibernation."""
        assert self.running is not None
        self.late = self.running
        self.crash(again=True)

    def let_go(self) -> None:
        """Whoever was stopped goes on to its end."""
        assert self.late is not None
        while self._advance(self.late):
            pass
        self.late = None

    def _advance(self, which: Hibernation) -> bool:
        """The next step of a hibernation. False if that was its last, because it is done or was refused."""
        try:
            next(which.steps)
            return True
        except StopIteration:
            pass
        except PoorwillError:
            pass  # the machine is kept
        which.session.close()
        return False

    def _steps(self, session: EngineSession, order: SnapshotOrder) -> Iterator[None]:
        run = SnapshotRun(self.store, session, order)
        metadata = run.open()
        session.hello(order.workspace)
        yield
        if metadata is None:
            run.scan()
            yield
            while run.planned:
                for number in list(run.planned):
                    run.pack_part(number)
                yield
                run.settle()
                yield
            metadata = run.write_metadata()
            yield
        VerifyRun(self.store, session, metadata, all_parts=False).run_all()
        yield
        metadata = check_destroyable(self.store, MACHINE, order.snapshot_id, order.instance)
        found = check_unchanged(self.store, session, order, metadata)
        self._open(order, {writer.path for writer in found.writers})
        run.remove_pending()

    def _open(self, order: SnapshotOrder, written: set[str]) -> None:
        """The gate has opened. What would be lost is compared with what comes back."""
        if order.instance != self.instance or not self.awake:
            return  # that machine is gone already
        live = _kept(list_tree(self.workspace))
        back = self.folder / "back"
        restore(self.store, order.snapshot_id, back, host=self.host)
        lost = differences(live, _kept(list_tree(back)))
        assert not lost, f"the gate opened, and this is lost: {lost[:5]}"
        shutil.rmtree(back)
        if not order.allow_shrink:
            self._assert_not_shrunk(live)
        self.opened += 1
        self.slept[order.snapshot_id], self.asleep_in = live, order.snapshot_id
        self._power_off()
        shutil.rmtree(self.workspace)
        self.awake, self.partial = False, False

    def _assert_not_shrunk(self, live: Listing) -> None:
        assert not self.partial, "the gate opened on what a partial wake had brought"
        assert len(live) > 1, "the gate opened on an empty workspace"
        if self.asleep_in is not None:
            before = _files(self.slept[self.asleep_in])
            assert _files(live) * 2 >= before, f"the gate opened with {_files(live)} of {before} files"

    def _power_off(self) -> None:
        self.mapper.end()
        self.mapper = Mapper()
        while self.mounts:
            self.unmount()

    def wake(self, include: tuple[str, ...] = ()) -> None:
        """A new machine, with what the last one held, or a part of it."""
        assert self.asleep_in is not None and not self.awake
        self.instances += 1
        restore(self.store, self.asleep_in, self.workspace, host=self.host, include=include)
        self.awake = True
        found, before = _kept(list_tree(self.workspace)), self.slept[self.asleep_in]
        self.partial = _files(found) < _files(before)
        if not include:
            assert differences(before, found) == []

    def retain(self, last: int) -> None:
        """Retention without grace, which is told what the machine sleeps by."""
        protected = {self.asleep_in: "asleep"} if self.asleep_in is not None and not self.awake else {}
        holdings = Holdings(self.store)
        going = retention.plan(holdings, Policy(last=last), 0.0, protected=protected).going
        retention.apply(holdings, going, 0.0)

    def trash(self, number: int) -> None:
        """Somebody moves a snapshot to the trash, and brings it back."""
        holdings = Holdings(self.store)
        holdings.refresh()
        owners = sorted(holdings.committed)
        if owners:
            owner = owners[number % len(owners)]
            trash.move(self.store, owner)
            trash.undelete(self.store, owner[1])

    def files(self) -> list[Path]:
        found = (Path(top) / name for top, _, names in os.walk(self.workspace) for name in names)
        return sorted(path for path in found if path.is_file() and not path.is_symlink())

    def mount(self, path: Path) -> bool:
        done = subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], capture_output=True, check=False)
        self.mounts += [path] if done.returncode == 0 else []
        return done.returncode == 0

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.mounts.pop())], check=True)


def _kept(listing: Listing) -> Listing:
    """Without what a snapshot need not keep: where the holes of small files are; and when an entry last came to or went
    from a directory that holds what it held before, by which the gate does not keep a machine."""
    return {
        path: replace(entry, data=(), mtime_ns=0 if stat.S_ISDIR(entry.mode) else entry.mtime_ns)
        for path, entry in listing.items()
    }


def _files(listing: Listing) -> int:
    """As a snapshot counts them: one of several names is enough."""
    return sum(1 for path, entry in listing.items() if entry.content and entry.same_as in (b"", path))


def attempt(step: Callable[[], Any]) -> None:
    """What may be refused, or find nothing there."""
    with suppress(Refused, NotFound):
        step()
