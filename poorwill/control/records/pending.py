"""The pending record of a snapshot being made, by which whoever removes something knows what it is about to need, and
by which whoever was overtaken knows that it may write no more."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import ClassVar

from poorwill.engine.protocol.requests import FoundPart
from poorwill.errors import NotFound, Refused
from poorwill.snapshot import keys
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.metadata import THIS_TOOL, Tool
from poorwill.snapshot.record import SnapshotRecord
from poorwill.store.base import Store
from poorwill.timestamps import now

TAKE_OVERS_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending(SnapshotRecord):
    """The kind `pending`: a snapshot that is being made, which has its own parts and may come to need others.

    borrows: ids of the snapshots whose parts must stay while it exists. converted_from: the snapshot that is being
    converted into it, if it comes about in this way. attempt: whose it is, of several runs with this id.
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
    attempt: str | None = None


@dataclass(slots=True)
class Attempt:
    """One run's try at a snapshot, with all the engines that it opens. held: it has taken over the pending record."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    held: bool = False


@dataclass(frozen=True, slots=True)
class PendingRecord:
    """The first object of a snapshot to be written, and the last to go. All of it may be repeated.

    Of several runs with one id, the last to take over may write; the others are fenced off. All that a run writes
    appears through an upload, before whose end it calls `check`. Who takes over writes its attempt, then ends every
    upload: what was begun before has appeared by then or never will, and what is begun later fails its `check`.
    """

    store: Store
    machine: str
    snapshot_id: str
    attempt: Attempt = field(default_factory=Attempt)

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
        """Take it over, or write it anew. Refused when the id was begun for another workspace, or from another
        snapshot, and when another run has taken it over since."""
        before = self._read()
        if before is not None:
            self._check_same(before, workspace, converted_from)
        record = Pending(
            machine=self.machine, snapshot_id=self.snapshot_id, workspace=workspace, instance=instance, parent=parent,
            borrows=tuple(borrows), plan_hash=plan_hash, started_at=before.started_at if before else now(),
            tool=THIS_TOOL, converted_from=converted_from, attempt=self.attempt.id,
        )  # fmt: skip
        if self.attempt.held:
            self.store.put_fenced(self.key, record.seal(), self.check)
        else:
            self._take_over(record)

    def take_over_existing(self) -> None:
        """Fence off whoever was cut off, or is late, with a snapshot that is committed. Nothing if all has ended."""
        before = self._read()
        if before is not None and not self.attempt.held:
            self._take_over(replace(before, attempt=self.attempt.id))

    def _take_over(self, record: Pending) -> None:
        for _ in range(TAKE_OVERS_MAX):
            self.store.put(self.key, record.seal())
            end_uploads(self.store, (self.machine, self.snapshot_id))
            if self._mine():  # else whoever was here before wrote it once more, just before its upload was ended
                self.attempt.held = True
                return
        raise Refused(f"several runs take snapshot {self.snapshot_id} over from each other: let one of them work on it")

    def check(self) -> None:
        """Refused if another run has taken over, has ended, or has been given up; then nothing more may be written."""
        if self.attempt.held and not self._mine():
            raise Refused(
                f"another run has gone on with snapshot {self.snapshot_id} of {self.machine} since, or has given it "
                "up: this one was overtaken, and writes and destroys nothing more"
            )

    def _mine(self) -> bool:
        found = self._read()
        return found is not None and found.attempt == self.attempt.id

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
        """The last step of all: whoever continues the run must find it until then. False if it is not ours."""
        mine = self._mine()
        if mine:
            self.store.delete(self.key)
        return mine

    def finished_parts(self) -> tuple[FoundPart, ...]:
        """What the engine may adopt: the parts that an earlier run of this snapshot had completed."""
        prefix = keys.parts_of(self.machine, self.snapshot_id)
        found = (part for part in self.store.list(prefix) if keys.is_part(part.key))
        return tuple(FoundPart(part.key, int(part.key[-2:]), part.size) for part in found)


def uploads_of(store: Store, owner: Owner | None = None) -> list[tuple[str, str]]:
    """The unfinished uploads of whatever a run writes, of one snapshot or of all."""
    if owner is None:
        places = [keys.PENDING, keys.PARTS, keys.MANIFESTS, keys.SNAPSHOTS, keys.VERIFIED]
    else:
        places = [place(*owner) for place in (keys.pending, keys.parts_of, keys.manifest, keys.metadata, keys.verified)]
    return [upload for place in places for upload in store.list_uploads(place)]


def end_uploads(store: Store, owner: Owner) -> None:
    """What was begun of a snapshot has appeared by now or never will."""
    for key, upload_id in uploads_of(store, owner):
        store.abort_upload(key, upload_id)
