"""Converting a snapshot, as the control side does it: a new one of the same content, which any CPU reads.

Nothing of the old one is changed, and nothing of it is used by the new one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from poorwill.control.records import catalog, manifests, trash
from poorwill.control.records.pending import PendingRecord
from poorwill.control.snapshot import needs
from poorwill.control.snapshot.commit import complete_part, needs_of, write_manifest, write_metadata
from poorwill.control.snapshot.presigned_grants import PartGrants, ReadGrants
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.protocol.answers import ConvertPlanned, MachineFacts, PartSent
from poorwill.engine.protocol.asking import Question
from poorwill.engine.protocol.questions import Read
from poorwill.engine.protocol.requests import Convert, FinishConvert, FoundPart, OpenConvert
from poorwill.errors import Corrupt, EngineFailed, PermanentError, Refused, Unsupported
from poorwill.snapshot import ids
from poorwill.snapshot.metadata import THIS_TOOL, Metadata
from poorwill.snapshot.tables import Manifest
from poorwill.store.base import Store
from poorwill.timestamps import now, timed

CONTENT = ("entries", "segments", "targets", "xattr_sets")


def is_portable(metadata: Metadata) -> bool:
    """Whether any CPU reads the snapshot already. Unsupported if it needs what this version does not know."""
    return not needs.of(metadata)


@dataclass(slots=True)
class ConvertRun:
    """One conversion: `open`, `convert_part` for every planned part, `write_metadata`. Each step may be repeated after
    it failed; the session has said hello. Then the new snapshot is verified, and the pending record removed.

    A run that is begun again with the id of one that was killed keeps the parts that had been completed. `planned` maps
    the parts to write to their raw bytes; `work` is what the engine says of them.
    """

    store: Store
    session: EngineSession
    source: Metadata
    snapshot_id: str
    planned: dict[int, int] = field(default_factory=dict)
    work: ConvertPlanned | None = None
    done: dict[int, PartSent] = field(default_factory=dict)
    timings_ms: dict[str, int] = field(default_factory=dict)
    adopted: tuple[FoundPart, ...] = ()
    _reads: ReadGrants = field(init=False)
    _parts: PartGrants = field(init=False)
    _pending: PendingRecord = field(init=False)

    def __post_init__(self) -> None:
        ids.checked_snapshot_id(self.snapshot_id)
        if self.snapshot_id == self.source.snapshot_id:
            raise Refused(f"snapshot {self.snapshot_id} cannot be converted into itself: give another id, or none")
        self._reads = ReadGrants(self.store, self.source.readable_keys)
        self._parts = PartGrants(self.store, self.machine, self.snapshot_id)
        self._pending = PendingRecord(self.store, self.machine, self.snapshot_id)

    @property
    def machine(self) -> str:
        return self.source.machine

    def open(self) -> Metadata | None:
        """Have the engine look whether it can decode the snapshot, write the pending record, and plan. The metadata if
        this conversion is already committed.

        Unsupported, before anything is written, if the engine cannot. Refused when the id is pending for something
        else, is another snapshot's, or that of one that was removed; NotFound if the source was removed meanwhile.
        """
        owner = self.machine, self.snapshot_id
        committed = catalog.committed(self.store, *owner)
        if committed is not None:
            self._pending.take_over_existing()
            return self._checked(committed)
        trash.check_not_removed(self.store, owner)
        self._plan()
        source = self.source.snapshot_id
        self._pending.write(
            workspace=self.source.workspace, instance=self.source.instance, parent=source,
            borrows=sorted({source, *self.source.lenders}), converted_from=source,
        )  # fmt: skip
        try:
            # Whoever removes snapshots moves metadata away first and looks for pending records second: one of the two
            # sees the other.
            trash.check_not_removed(self.store, owner)
            catalog.read(self.store, *self.source.owner)
        except PermanentError:
            self.remove_pending()
            raise
        committed = catalog.committed(self.store, *owner)
        if committed is not None:
            return self._checked(committed)  # by whoever was overtaken just now
        self.adopted = self._pending.finished_parts()
        if self.adopted:
            self._plan()
        return None

    def _checked(self, found: Metadata) -> Metadata:
        if found.converted_from != self.source.snapshot_id:
            raise Refused(f"snapshot {self.snapshot_id} exists and is no conversion of {self.source.snapshot_id}")
        return found

    def _plan(self) -> None:
        grants = ReadGrants(self.store, self._reads.allowed | {found.key for found in self.adopted})
        question = OpenConvert(self.source.manifest, self.snapshot_id, self.adopted)
        try:
            with timed(self.timings_ms, "plan"):
                work = self.session.request(question, answer=grants.answer)
        except Unsupported as error:
            raise self._explained(error) from None
        self.work, self.planned = work, dict(work.parts)
        self._parts.expect(work.parts)

    def _explained(self, error: Unsupported) -> Unsupported:
        facts = self.session.facts or MachineFacts()
        host = facts.host[:80] or "the machine"
        lacks = [(need, lack) for need in needs.of(self.source) if (lack := need.lacking(facts))]
        told = "; ".join(f"it needs {need.describe()}, and {host} {lack}" for need, lack in lacks) or error.message
        return Unsupported(
            f"snapshot {self.source.snapshot_id} cannot be decoded there: {told}; nothing was written: convert it "
            "on a machine that has all of it"
        )

    def convert_part(self, number: int, attempt: int = 1) -> PartSent:
        """Have one planned part written, then complete its upload. A repeated call starts the part over."""
        sent = self.session.request(Convert(number), attempt=attempt, answer=self._answer)
        self.done[number] = complete_part(self.store, self._parts, number, sent, self._pending.check)
        return sent

    def _answer(self, question: Question[Any]) -> Any:
        return (self._reads if isinstance(question, Read) else self._parts).answer(question)

    def write_metadata(self) -> Metadata:
        """Check that every part is there, that the content is the same, and that any CPU reads it; write the manifest,
        then the metadata: with that, the snapshot exists."""
        owner = self.machine, self.snapshot_id
        with timed(self.timings_ms, "metadata"):
            written, _ = write_manifest(
                self.store, self.session, FinishConvert(), owner, self._pending.check, self._check
            )
        # What describes the workspace, and not how it is stored, is as in the old metadata, its commit time among it.
        metadata = replace(
            self.source,
            snapshot_id=self.snapshot_id,
            created_at=now(),
            parent=None,
            converted_from=self.source.snapshot_id,
            tool=THIS_TOOL,
            codec="auto",
            portable=True,
            timings_ms=dict(self.timings_ms),
            further={},
            **written,
        )
        return write_metadata(self.store, metadata, self._pending.check)

    def _check(self, found: Manifest) -> None:
        """The engine's machine is not trusted: what the new snapshot holds is compared with the old one here."""
        source = manifests.read(self.store, self.source)
        differing = [name for name in CONTENT if not getattr(source, name).equals(getattr(found, name))]
        if differing or not source.chunks.equals(found.chunks, ("raw", "raw_hash")):
            raise Corrupt(f"the engine's conversion of {source.snapshot_id} has other {(*differing, 'chunks')[0]}")
        borrowed = {found.parts.snapshot_id[row].decode() for row in range(len(found.parts))} - {self.snapshot_id}
        lacking = [*needs_of(found), *sorted(borrowed)]
        if lacking:
            raise EngineFailed(f"the conversion of {source.snapshot_id} would still need {', '.join(lacking)}")

    def remove_pending(self) -> bool:
        """The last step of all, once the new snapshot was verified: until then the parts of the old one stay, whoever
        removes it. False if there was none."""
        return self._pending.remove()
