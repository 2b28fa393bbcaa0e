"""The pending record of a snapshot being made, by which whoever removes something knows what it is about to need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poorwill.control.records import catalog
from poorwill.engine.protocol.requests import FoundPart
from poorwill.errors import NotFound, Refused
from poorwill.snapshot import keys
from poorwill.snapshot.metadata import THIS_TOOL, Tool
from poorwill.snapshot.record import SnapshotRecord
from poorwill.store.base import Store
from poorwill.timestamps import now


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending(SnapshotRecord):
    """The kind `pending`: a snapshot that is being made, which has its own parts and may come to need others.

    borrows: ids of the snapshots whose parts must stay while it exists. converted_from: the snapshot that is being
    converted into it, if it comes about in this way.
    """

    KIND: ClassVar[str] = "pending"
    PLACE = keys.pending

    workspace: str
    instance: str
    parent: str | None
    borrows: tuple[str, ...]
    plan_hash: str | None
    started_at: str
    tool: Tool
    converted_from: str | None = None


@dataclass(frozen=True, slots=True)
class PendingRecord:
    """The first object of a snapshot to be written, and the last to go. All of it may be repeated."""

    store: Store
    machine: str
    snapshot_id: str

    @property
    def key(self) -> str:
        return keys.pending(self.machine, self.snapshot_id)

    def write(
        self,
        *,
        workspace: str,
        instance: str,
        parent: str | None,
        borrows: list[str],
        plan_hash: str | None = None,
        converted_from: str | None = None,
    ) -> None:
        """Write it, or write it anew. Refused when the id was begun for another workspace, or from another snapshot."""
        before = self._read()
        if before is not None:
            self._check_same(before, workspace, converted_from)
        record = Pending(
            machine=self.machine, snapshot_id=self.snapshot_id, workspace=workspace, instance=instance, parent=parent,
            borrows=tuple(borrows), plan_hash=plan_hash, started_at=before.started_at if before else now(),
            tool=THIS_TOOL, converted_from=converted_from,
        )  # fmt: skip
        self.store.put(self.key, record.seal())

    def _read(self) -> Pending | None:
        try:
            return Pending.unseal(self.store.get(self.key), self.key)
        except NotFound:
            return None

    def _check_same(self, before: Pending, workspace: str, converted_from: str | None) -> None:
        if (before.converted_from, before.workspace) == (converted_from, workspace):
            return
        begun, wanted = f"for {before.workspace}", f"for {workspace}"
        if before.converted_from != converted_from:
            begun = f"to convert {before.converted_from}" if before.converted_from else begun
            wanted = f"to convert {converted_from}" if converted_from else wanted
        raise Refused(f"snapshot {self.snapshot_id} was begun {begun}, not {wanted}: use another id")

    def remove(self) -> bool:
        """The last step of all: whoever continues the run must find it until then. False if there was none."""
        there = catalog.exists(self.store, self.key)
        if there:
            self.store.delete(self.key)
        return there

    def finished_parts(self) -> tuple[FoundPart, ...]:
        """What the engine may adopt: the parts that an earlier run of this snapshot had completed. Those it had not
        are dropped: without their pieces' tags nobody can complete them."""
        prefix = keys.parts_of(self.machine, self.snapshot_id)
        for key, upload in self.store.list_uploads(prefix):
            self.store.abort_upload(key, upload)
        found = (part for part in self.store.list(prefix) if keys.is_part(part.key))
        return tuple(FoundPart(part.key, int(part.key[-2:]), part.size) for part in found)
