"""The first phase of removing a snapshot, and its undoing: the trash.

A snapshot in the trash does not exist for those who list, wake or borrow, and all of its objects are still there.
A trash record beside metadata says nothing: the snapshot exists. It is written anew when that is removed again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from poorwill.control.records import catalog, manifests
from poorwill.control.records.pending import Pending
from poorwill.errors import Corrupt, NotFound, PermanentError, Refused
from poorwill.snapshot import keys
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.metadata import THIS_TOOL, Metadata
from poorwill.snapshot.record import SnapshotRecord
from poorwill.store.base import Store
from poorwill.timestamps import now


@dataclass(frozen=True, slots=True, kw_only=True)
class Trashed(Metadata):
    """The kind `trash`: all that the metadata of a snapshot said, while it is in the trash."""

    KIND: ClassVar[str] = "trash"
    PLACE = keys.trash

    trashed_at_s: int  # POSIX

    @classmethod
    def at(cls, trashed_at_s: int, metadata: Metadata) -> Trashed:
        return cls(**_values(metadata), trashed_at_s=trashed_at_s)

    def metadata(self) -> Metadata:
        """What the metadata was."""
        return Metadata(**_values(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Removing(SnapshotRecord):
    """The kind `removing`: the mark that the second phase has begun. That it is there says all of it."""

    KIND: ClassVar[str] = "removing"
    PLACE = keys.removing


def move(store: Store, owner: Owner) -> Metadata:
    """Move a committed snapshot to the trash. Returns its metadata. NotFound, Corrupt.

    The trash record is written before the metadata goes, so that a crash in between leaves the snapshot as it was.
    Begun again, it starts the time in the trash anew.
    """
    metadata = catalog.read(store, *owner)
    store.put(keys.trash(*owner), Trashed.at(int(time.time()), metadata).seal())
    if marked(store, owner) and catalog.exists(store, keys.metadata(*owner)):
        # Of an earlier time in the trash, and would cut this one short; else somebody else removes it right now.
        store.delete(keys.removing(*owner))
    store.delete(keys.metadata(*owner))
    return metadata


def undelete(store: Store, snapshot_id: str) -> Metadata:
    """Bring a snapshot back from the trash. Returns its metadata. Idempotent.

    NotFound if it is not there (any more), Refused once the removal of its parts has begun, Corrupt if one is missing.

    It goes about it as one that takes a snapshot: a pending record that holds on to all parts comes first, then a look
    at whether their removal has begun. Whoever removes parts marks the snapshot first and looks for pending records
    second: one of the two sees the other.
    """
    owner = owner_of(store, snapshot_id)
    hold = keys.pending(owner[0], _hold_id(snapshot_id))
    try:
        found = catalog.read(store, *owner)
        store.delete(hold)  # of an undeletion that was cut off when all else was done
        return found
    except NotFound:
        pass  # the usual case
    store.put(hold, _hold(read(store, owner)).seal())
    try:
        metadata = _restored(store, owner)
    except PermanentError:
        store.delete(hold)
        raise
    if not store.put_new(metadata.key, metadata.seal()):
        raise Refused(f"snapshot {snapshot_id} was taken anew, with other content, while it was brought back")
    store.delete(hold)
    return metadata


def _restored(store: Store, owner: Owner) -> Metadata:
    """The metadata of a snapshot in the trash whose parts are all there, and are held on to."""
    if marked(store, owner):
        raise Refused(f"snapshot {owner[1]} cannot be brought back: the removal of its parts has begun")
    metadata = read(store, owner).metadata()  # again: it may have gone before it was held on to
    manifests.read(store, metadata)
    for part in metadata.parts:
        there = store.head(part.key).size
        if there != part.bytes:
            raise Corrupt(f"{part.key}: {there} bytes in the store, expected {part.bytes}")
    return metadata


def owner_of(store: Store, snapshot_id: str) -> Owner:
    """Whose snapshot it is, also when it is in the trash, or its removal was cut off. NotFound."""
    try:
        return catalog.machine_of(store, snapshot_id), snapshot_id
    except NotFound:
        for found in store.list(keys.TRASH):
            owner = keys.marked_owner(found.key) or keys.owner_of(found.key)
            if owner is not None and owner[1] == snapshot_id:
                return owner
        raise


def check_not_removed(store: Store, owner: Owner) -> None:
    """Refused if a snapshot that is not committed was removed: its parts may vanish at any time, or have."""
    if marked(store, owner) or catalog.exists(store, keys.trash(*owner)):
        raise Refused(f"snapshot {owner[1]} was removed: bring it back (undelete), or take one with another id")


def marked(store: Store, owner: Owner) -> bool:
    """Whether the second phase of its removal has begun."""
    return catalog.exists(store, keys.removing(*owner))


def read(store: Store, owner: Owner) -> Trashed:
    """The trash record of a snapshot. NotFound, Corrupt, Unsupported."""
    key = keys.trash(*owner)
    return Trashed.unseal(store.get(key), key)


def _hold_id(snapshot_id: str) -> str:
    """The id of the pending record by which an undeletion holds on to a snapshot: always the same, so that one that was
    cut off and is begun again ends it; of the same second, with all bits of the random part flipped."""
    return f"{snapshot_id[:17]}{int(snapshot_id[17:], 16) ^ 0xFFFFFFFF:08x}"


def _hold(record: Trashed) -> Pending:
    return Pending(
        machine=record.machine, snapshot_id=_hold_id(record.snapshot_id), workspace=record.workspace,
        instance=record.instance, parent=record.snapshot_id,
        borrows=tuple(sorted({record.snapshot_id, *record.lenders})), plan_hash=None, started_at=now(), tool=THIS_TOOL,
    )  # fmt: skip


def _values(metadata: Metadata) -> dict[str, Any]:
    return {each.name: getattr(metadata, each.name) for each in fields(Metadata)}
