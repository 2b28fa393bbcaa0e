"""A workspace becoming a snapshot: rounds of scan, plan and pack until nothing changes any more."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np

from poorwill.engine import state
from poorwill.engine.journal import Journal
from poorwill.engine.meter import Meter
from poorwill.engine.pack.manifest import assemble, empty_manifest, unsettled, without
from poorwill.engine.pack.matching import racy_for_s, unchanged_since
from poorwill.engine.pack.round import Adopted, Round, begin
from poorwill.engine.pack.scan import Scan, Walk
from poorwill.engine.protocol.answers import LeftOut, Planned
from poorwill.engine.protocol.context import Context
from poorwill.errors import Refused, UsageError, WorkspaceError
from poorwill.snapshot import fields, limits, plan
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.order import PackSettings
from poorwill.snapshot.tables import Kind, Manifest

SETTLE_ROUNDS = 3
PATHS_SHOWN = 20


class SnapshotRun:
    """One snapshot being taken: what is in its rounds. Not for concurrent use."""

    def __init__(self, settings: PackSettings, meter: Meter) -> None:
        self.settings = settings
        self._root = os.fsencode(settings.workspace)
        self._exclude = Globs(settings.exclude)
        self._meter = meter
        self._round: Round | None = None
        self._before: Manifest | None = None
        self._rounds, self._trusted_s = 0, 0.0
        self._used: set[int] = set()
        self._unreadable: set[bytes] = set()
        self.left_out: dict[bytes, LeftOut] = {}

    def scan(self, parent: Manifest | None, parent_hash: str, adopted: list[Adopted], context: Context) -> Planned:
        """Walk the workspace and plan the parts. Refused in a workspace where a restore was interrupted."""
        if Journal.left_in(self._root):
            raise Refused(
                f"{self.settings.workspace}: a restore was interrupted there, so it is not whole: "
                "finish the restore, then take the snapshot"
            )
        if parent is not None:
            state.apply_woken(self._root, parent_hash, parent)
        self._used = {found.number for found in adopted}
        previous = parent or empty_manifest(self.settings.machine, self.settings.snapshot_id)
        return self._begin(self._scan(context), previous, adopted)

    def _scan(self, context: Context) -> Scan:
        def count(entries: int) -> None:
            context.check()
            self._meter.set(entries=entries)

        found = Walk(self._root, self._exclude, self._unreadable, os.fsencode(state.state_dir()), count).run()
        self._note(found.unreadable, found.skipped)
        return found

    def _note(self, unreadable: list[LeftOut], skipped: list[LeftOut]) -> None:
        for left in skipped:
            self.left_out[left.path] = left
        if unreadable and not self.settings.skip_unreadable:
            shown = "; ".join(f"{os.fsdecode(left.path)}: {left.reason}" for left in unreadable[:PATHS_SHOWN])
            raise WorkspaceError(
                f"{len(unreadable)} entries of {self.settings.workspace} cannot be read: {shown}: "
                "make them readable, exclude them, or skip what is unreadable",
                unreadable=[fields.write(left) for left in unreadable[: limits.LEFT_OUT_MAX]],
            )
        for left in unreadable:
            self.left_out[left.path] = left

    def _begin(self, found: Scan, previous: Manifest, adopted: list[Adopted]) -> Planned:
        free = [n for n in range(limits.PART_NUMBER_MAX + 1) if n not in self._used]
        planned = [n for n in free if n < self.settings.parts] if self._rounds == 0 else []
        self._round = begin(self.settings, found, previous, adopted, planned or free[:1])
        self._note([], found.skipped)
        self._rounds += 1
        self._trusted_s = time.monotonic() + racy_for_s(found)
        self._used.update(self._round.parts)
        raw = self._round.plan.raw_bytes()
        entries = found.entries
        parts = {number: int(raw[chunks].sum()) for number, chunks in self._round.parts.items()}
        return Planned(
            entries=len(entries),
            files=int((entries.kind == Kind.FILE).sum()),
            raw_bytes=int(entries.size.sum(dtype=np.int64)),
            pack_bytes=sum(parts.values()),
            parts=parts,
            plan_hash=plan.plan_hash(self._round.sources),
        )

    @property
    def round(self) -> Round:
        """The last one that was planned."""
        if self._round is None:
            raise UsageError(f"snapshot {self.settings.snapshot_id} is between two rounds: nothing is planned")
        return self._round

    def settle(self, context: Context) -> Planned:
        """Scan again; what changed since the round's scan is planned into one further part.

        `parts` is empty in the answer when nothing is left to pack. After `SETTLE_ROUNDS` rounds a file that
        still changes is a WorkspaceError that names it.
        """
        if self._round is not None:
            # What the last round scanned is not needed beside what the next one scans: only its manifest is.
            self._before, self._round = self._finished(), None
        assert self._before is not None
        if self._rounds > SETTLE_ROUNDS:
            self._give_up(self._before, context)
        # On a fast machine all rounds would else fit into one tick of the file system's clock, none trusting the last.
        time.sleep(max(0.0, self._trusted_s - time.monotonic()))
        return self._begin(self._scan(context), self._before, [])

    def _finished(self) -> Manifest:
        assert self._round is not None
        unreadable = [t.unreadable for t in self._round.torn.values() if t.unreadable is not None]
        self._note(unreadable, [])
        # The next scan would find these files again, and they would be torn again.
        self._unreadable.update(left.path for left in unreadable)
        manifest_ = assemble(self._round)
        if not unreadable:
            return manifest_
        gone = {left.path for left in unreadable}
        files = np.flatnonzero(manifest_.entries.kind == Kind.FILE).tolist()
        return without(manifest_, np.array([r for r in files if manifest_.entries.path(r) in gone], np.int64))

    def _give_up(self, previous: Manifest, context: Context) -> None:
        probe = begin(self.settings, self._scan(context), previous, [], [limits.PART_NUMBER_MAX])
        rows = np.unique(probe.plan.row).tolist()
        if rows:
            names = ", ".join(os.fsdecode(probe.scan.entries.path(r)) for r in rows[:PATHS_SHOWN])
            raise WorkspaceError(
                f"{len(rows)} files of {self.settings.workspace} kept changing while they were read, "
                f"{SETTLE_ROUNDS} times over: {names}: stop what writes them, or exclude them"
            )

    def settled(self) -> Manifest:
        """The manifest of the settled workspace. WorkspaceError if something was left unsettled."""
        found = self._finished()
        rows = unsettled(found).tolist()
        if rows:
            names = ", ".join(os.fsdecode(found.entries.path(r)) for r in rows[:PATHS_SHOWN])
            raise WorkspaceError(f"{len(rows)} files changed while they were read: {names}")
        return found

    def changed(self, before: Manifest, left_out: Sequence[bytes], context: Context) -> list[str]:
        """Paths added, removed or changed since `before` was scanned, but for `left_out`; at most `PATHS_SHOWN`."""
        self._unreadable.update(left_out)
        now = self._scan(context)
        same = unchanged_since(now, before.entries, 1 << 62)
        # Directories change their times with their entries; those differ themselves.
        new = np.flatnonzero((same < 0) & (now.entries.kind != Kind.DIRECTORY))
        gone = np.ones(len(before.entries), bool)
        gone[same[same >= 0]] = False
        gone &= before.entries.kind != Kind.DIRECTORY
        paths = {os.fsdecode(now.entries.path(r)) for r in new[:PATHS_SHOWN].tolist()}
        paths |= {os.fsdecode(before.entries.path(r)) for r in np.flatnonzero(gone)[:PATHS_SHOWN].tolist()}
        return sorted(paths)[:PATHS_SHOWN]
