"""A workspace becoming a snapshot: rounds of scan, plan and pack until nothing changes any more."""

from __future__ import annotations

import os
import time

import numpy as np

from poorwill.engine import state
from poorwill.engine.journal import Journal
from poorwill.engine.machine.open_files import Identity
from poorwill.engine.meter import Meter
from poorwill.engine.pack.file_systems import FileSystems
from poorwill.engine.pack.manifest import MAPPED_NS, assemble, empty_manifest, unsettled, without
from poorwill.engine.pack.matching import compare, unsure_for_s
from poorwill.engine.pack.round import Adopted, Round, begin
from poorwill.engine.pack.scan import INODE_MASK, Scan
from poorwill.engine.pack.workspace import PATHS_SHOWN, Seen, Workspace, check_readable, rows_of
from poorwill.engine.protocol.answers import WRITERS_TOLD, LeftOut, Planned
from poorwill.engine.protocol.context import Context
from poorwill.engine.protocol.writers_said import way_on, who_writes
from poorwill.errors import Refused, UsageError, WorkspaceError
from poorwill.snapshot import fields, limits, plan
from poorwill.snapshot.columns import Array
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.order import PackSettings
from poorwill.snapshot.tables import Kind, Manifest

SETTLE_ROUNDS = 3
MAPPED_READS = 2
_TICK_S = 0.02


class SnapshotRun:
    """One snapshot being taken: what is in its rounds. Not for concurrent use."""

    def __init__(self, settings: PackSettings, meter: Meter, file_systems: FileSystems | None = None) -> None:
        self.settings = settings
        self._root = os.fsencode(settings.workspace)
        self._workspace = Workspace(self._root, Globs(settings.exclude), file_systems or FileSystems(), meter)
        self._round: Round | None = None
        self._before: Manifest | None = None
        self._rounds, self._trusted_s = 0, 0.0
        self._used: set[int] = set()
        self._unreadable: set[bytes] = set()
        self._at_rest: Array | None = None
        self._mapped: dict[Identity, int] = {}
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
        seen = self._look(context)
        if self.settings.writers == "stop":
            seen = self._stopped(self._workspace.end_writers(seen, context, self._unreadable))
        if seen.ahead:  # at rest, whatever the times say, if a second look finds the same
            context.pause(max(_TICK_S, unsure_for_s(seen.scan)))
            first, seen = seen.scan, self._look(context)
            seen.scan.at_rest = compare(seen.scan, first.entries, first.scanned_at_ns).alike
        seen.scan.again |= seen.doubtful
        return self._begin(seen.scan, previous, adopted)

    def _look(self, context: Context) -> Seen:
        seen = self._workspace.look(context, self._unreadable, descriptors=self.settings.writers == "stop")
        self._note(seen.scan.unreadable, seen.scan.skipped)
        return seen

    def _stopped(self, seen: Seen) -> Seen:
        """Refused if processes go on writing."""
        told = seen.writers[:WRITERS_TOLD]
        if told:
            raise Refused(
                f"{who_writes(told, len(seen.writers))} in {self.settings.workspace}: {way_on('stop')}; nothing was "
                "packed",
                writers=[fields.write(writer) for writer in told],
            )
        return seen

    def _note(self, unreadable: list[LeftOut], skipped: list[LeftOut]) -> None:
        for left in skipped:
            self.left_out[left.path] = left
        check_readable(unreadable, self.settings)
        for left in unreadable:
            self.left_out[left.path] = left

    def _begin(self, found: Scan, previous: Manifest, adopted: list[Adopted]) -> Planned:
        free = [n for n in range(limits.PART_NUMBER_MAX + 1) if n not in self._used]
        planned = [n for n in free if n < self.settings.parts] if self._rounds == 0 else []
        self._read_mapped_again(found)
        self._round = begin(self.settings, found, previous, adopted, planned or free[:1], self._at_rest)
        self._note(found.unreadable, found.skipped)
        self._rounds += bool(self._round.parts or not self._rounds)
        self._trusted_s = time.monotonic() + unsure_for_s(found)
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

    def _read_mapped_again(self, found: Scan) -> None:
        """A file that is changed through a mapping, and does not show it, is read twice, and once more when no process
        maps it any longer; what is read then can be trusted."""
        mapped = {found.identity(row): row for row in np.flatnonzero(found.mapped).tolist()}
        for identity, row in mapped.items():
            self._mapped[identity] = self._mapped.get(identity, 0) + 1
            found.again[row] |= self._mapped[identity] <= MAPPED_READS
        given_up = self._mapped.keys() - mapped.keys()
        for row in rows_of(found, given_up).values():
            found.again[row] = True
        for identity in given_up:
            del self._mapped[identity]

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
        for _ in range(SETTLE_ROUNDS):
            planned = self._settle_once(context)
            # What moved while a scan went by, from where it had not looked yet to where it had, is found by the next.
            if planned.parts or self.round.steady:
                break
        return planned

    def _settle_once(self, context: Context) -> Planned:
        if self._round is not None:
            # What the last round scanned is not needed beside what the next one scans: only its manifest is.
            at_rest, entries = self._round.scan.at_rest, len(self._round.scan.entries)
            self._before, self._round = self._finished(), None
            same_rows = len(self._before.entries) == entries
            self._at_rest = at_rest if same_rows else np.zeros(len(self._before.entries), bool)
        assert self._before is not None
        if self._rounds > SETTLE_ROUNDS:
            self._give_up(self._before, context)
        # On a fast machine all rounds would else fit into one tick of the file system's clock, none trusting the last.
        context.pause(max(0.0, self._trusted_s - time.monotonic()))
        return self._begin(self._look(context).scan, self._before, [])

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
        scan = self._look(context).scan
        probe = begin(self.settings, scan, previous, [], [limits.PART_NUMBER_MAX], self._at_rest)
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
        # Whoever compares with it finds these changed: they may be, and not show it.
        inodes = np.array([inode & INODE_MASK for _, inode in self._mapped], np.uint64)
        found.entries.ctime_ns[np.isin(found.entries.inode, inodes) & (found.entries.kind == Kind.FILE)] = MAPPED_NS
        return found
