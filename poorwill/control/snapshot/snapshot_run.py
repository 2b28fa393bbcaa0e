"""Taking a snapshot, as the control side does it: pending record first, metadata last."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from poorwill import defaults
from poorwill.control.records import catalog, clock, trash
from poorwill.control.records.pending import Attempt, PendingRecord
from poorwill.control.snapshot.commit import complete_part, write_manifest, write_metadata
from poorwill.control.snapshot.lending import doubt_about
from poorwill.control.snapshot.presigned_grants import PartGrants, ReadGrants
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.store_place import check_store_outside
from poorwill.engine.protocol import requests
from poorwill.engine.protocol.answers import PartSent, Planned, SnapshotManifestSent
from poorwill.errors import NotFound, Refused
from poorwill.snapshot import fields, keys, labels
from poorwill.snapshot.metadata import THIS_TOOL, LeftOut, Metadata
from poorwill.snapshot.order import SnapshotOrder
from poorwill.store.base import Store
from poorwill.timestamps import now, timed


@dataclass(slots=True)
class SnapshotRun:
    """One snapshot being taken: `open`, `scan`, `pack_part` for every planned part, `settle` until nothing is
    planned, `write_metadata`. Each step may be repeated after it failed.

    A run that is begun again with the id of one that was killed keeps the parts that had been completed. One that was
    not killed but is late is fenced off: whatever it would write or remove later is Refused.

    A parent of which there is a doubt lends nothing: everything is packed then, and `packs_in_full` says why.
    doubt: says why one lends nothing, or None; `doubt_about_backup` has one lend, too, that nobody has verified.
    """

    store: Store
    session: EngineSession
    order: SnapshotOrder
    doubt: Callable[[Store, Metadata], str | None] = doubt_about
    packs_in_full: str | None = None
    planned: dict[int, int] = field(default_factory=dict)
    scanned: Planned | None = None
    done: dict[int, PartSent] = field(default_factory=dict)
    timings_ms: dict[str, int] = field(default_factory=dict)
    adopted: tuple[requests.FoundPart, ...] = ()
    attempt: Attempt = field(default_factory=Attempt)
    _parent: Metadata | None = None
    _parts: PartGrants = field(init=False)
    _pending: PendingRecord = field(init=False)

    def __post_init__(self) -> None:
        self._parts = PartGrants(self.store, self.order.machine, self.order.snapshot_id)
        self._pending = PendingRecord(self.store, self.order.machine, self.order.snapshot_id, self.attempt)

    def open(self) -> Metadata | None:
        """Write the pending record, then read the parent again; the metadata if this snapshot is already committed.

        UsageError, before anything is written, for a store inside the workspace.

        Refused when the id is pending for another workspace, or is that of a snapshot that was removed. Whoever
        removes snapshots moves their metadata away first and looks for pending records second: one of the two sees
        the other.
        """
        owner = self.order.machine, self.order.snapshot_id
        committed = catalog.committed(self.store, *owner)
        if committed is not None:
            self._pending.take_over_existing()
            return committed
        trash.check_not_removed(self.store, owner)
        check_store_outside(self.store, self.order)
        parent = self._find_parent()
        # First: whoever is refused there must not have taken anything over.
        self.session.request(requests.Hold(self.order.workspace))
        self._write_pending(parent)
        try:
            trash.check_not_removed(self.store, owner)  # again: its parts may be about to go
        except Refused:
            self.remove_pending()
            raise
        committed = catalog.committed(self.store, *owner)
        if committed is not None:
            return committed  # by whoever was overtaken just now
        self._parent = parent
        if parent is not None:
            self._look_at_parent(parent)
        self.adopted = self._pending.finished_parts()
        return None

    def _find_parent(self) -> Metadata | None:
        """The one that was named, or the machine's newest. NotFound for a name that there never was."""
        named, machine = self.order.parent, self.order.machine
        wanted = named or catalog.latest(self.store, machine)
        if wanted is None or wanted == defaults.PARENT_NONE:
            return None
        try:
            return catalog.find(self.store, wanted) if named else catalog.read(self.store, machine, wanted)
        except catalog.UNREADABLE as error:
            if named and isinstance(error, NotFound) and not self._was_there(named):
                raise
            self._note_doubt(wanted, error.message)
            return None

    def _was_there(self, parent: str) -> bool:
        """Whether there are traces of it: of this run's own earlier try with it, or in the store."""
        machine = self.order.machine
        traces = self._pending.key, keys.manifest(machine, parent), keys.trash(machine, parent)
        return any(catalog.exists(self.store, key) for key in traces)

    def _look_at_parent(self, parent: Metadata) -> None:
        """Keep it if nothing speaks against it; it is looked at behind the pending record, which keeps its parts."""
        try:
            catalog.read(self.store, *parent.owner)
            doubt = self.doubt(self.store, parent)
        except catalog.UNREADABLE as error:
            doubt = error.message
        if doubt is not None:
            self._drop_parent(parent, doubt)

    def _drop_parent(self, parent: Metadata, doubt: str) -> None:
        self._note_doubt(parent.snapshot_id, doubt)
        self._parent = None
        self._write_pending(None)

    def _note_doubt(self, snapshot_id: str, doubt: str) -> None:
        self.packs_in_full = f"packs in full: snapshot {snapshot_id} lends nothing: {doubt}"

    def _write_pending(self, parent: Metadata | None) -> None:
        self._pending.write(
            workspace=self.order.workspace,
            instance=self.order.instance,
            parent=parent.snapshot_id if parent else None,
            borrows=parent.lenders if parent else [],
            plan_hash=self.scanned.plan_hash if self.scanned else None,
        )

    def scan(self) -> Planned:
        """Walk the workspace and plan; `planned` then holds the raw bytes of each part to pack."""
        with timed(self.timings_ms, "scan"):
            try:
                scanned = self._scan()
            except catalog.UNREADABLE as error:
                if self._parent is None or not self.session.alive:
                    raise
                # What cannot be read is the parent's manifest, most likely; else the same comes of it again.
                self._drop_parent(self._parent, error.message)
                scanned = self._scan()
        self.scanned = scanned
        self._expect(scanned)
        self._write_pending(self._parent)
        return scanned

    def _scan(self) -> Planned:
        parent = self._parent.manifest if self._parent is not None else None
        allowed = {found.key for found in self.adopted} | ({parent.key} if parent is not None else set())
        scan = requests.Scan(self.order, parent, self.adopted)
        return self.session.request(scan, answer=ReadGrants(self.store, allowed).answer)

    def _expect(self, planned: Planned) -> None:
        self.planned = dict(planned.parts)
        self._parts.expect(planned.parts)

    def pack_part(self, number: int, attempt: int = 1) -> PartSent:
        """Have one planned part coded and sent, then complete its upload. A repeated call starts the part over."""
        sent = self.session.request(requests.Pack(number), attempt=attempt, answer=self._parts.answer)
        self.done[number] = complete_part(self.store, self._parts, number, sent, self._pending.check)
        return sent

    def settle(self) -> dict[int, int]:
        """Scan again. Returns the parts (number: raw bytes) to pack for what changed; empty when settled."""
        with timed(self.timings_ms, "settle"):
            planned = self.session.request(requests.Settle())
        self._expect(planned)
        return self.planned

    def write_metadata(self) -> Metadata:
        """Check that every part is there, write the manifest, then the metadata: with that, the snapshot exists."""
        owner = self.order.machine, self.order.snapshot_id
        with timed(self.timings_ms, "metadata"):
            written, sent = write_manifest(self.store, self.session, requests.Manifest(), owner, self._pending.check)
        return write_metadata(self.store, self._metadata(written, sent), self._pending.check)

    def _metadata(self, written: dict[str, Any], sent: SnapshotManifestSent) -> Metadata:
        return Metadata(
            machine=self.order.machine,
            snapshot_id=self.order.snapshot_id,
            created_at=now(),
            committed_at_ms=clock.commit_time_ms(self.store, (self.order.machine, self.order.snapshot_id)),
            workspace=self.order.workspace,
            instance=self.order.instance,
            name=labels.checked_name(self.order.name),
            tags=labels.checked_tags(self.order.tags),
            parent=self._parent.snapshot_id if self._parent else None,
            tool=THIS_TOOL,
            codec=self.order.codec,
            portable=self.order.portable,
            **written,
            left_out=tuple(LeftOut(os.fsdecode(left.path), left.reason) for left in sent.left_out),
            left_out_count=sent.left_out_count,
            allow_shrink=self.order.allow_shrink,
            surroundings=self.scanned.surroundings if self.scanned is not None else None,
            facts=fields.write(self.session.facts) if self.session.facts is not None else {},
            timings_ms=dict(self.timings_ms),
        )

    def remove_pending(self) -> bool:
        """The last step: until then, a run that continues this one needs the record. False if there was none."""
        return self._pending.remove()
