"""Removing one snapshot at a user's request, at once, without harm to others."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from poorwill.control.records import catalog, trash, verified
from poorwill.control.records.holdings import THREADS, Holdings
from poorwill.control.records.pending import end_uploads
from poorwill.control.records.trash import Trashed
from poorwill.control.removal import purging
from poorwill.errors import Corrupt, NotFound, Refused
from poorwill.snapshot import ids, keys
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.metadata import Metadata
from poorwill.store.base import Store

_NOT_ENDED = (
    "the run that takes snapshot {} has not ended: wait for it, run it again to its end, or delete with force to give "
    "it up"
)


def delete(store: Store, snapshot_id: str, *, force: bool = False, threads: int = THREADS) -> dict[str, Any]:
    """Remove a snapshot, except parts that others may use: committed, in the trash or being taken. Idempotent.

    Parts of snapshots that were deleted before, and that only this one needed, go with it. Both phases of a removal,
    without the grace period between them: a running wake from this snapshot fails. Refused while the run that takes
    this snapshot has not ended (it may be about to destroy the machine), unless the snapshot could not be read back, by
    which that run came to nothing, or with `force`, which also gives up an interrupted run; no other run may work on
    the snapshot then. NotFound; Corrupt for one whose own documents cannot be read, unless `force`; Refused if others
    cannot: then the snapshot stays in the trash.
    """
    owner = _owner_of(store, ids.checked_snapshot_id(snapshot_id), force)
    not_ended = not force and catalog.exists(store, keys.pending(*owner))
    if not_ended and not _failed(store, owner):
        raise Refused(_NOT_ENDED.format(snapshot_id))
    if force:
        _drop_damaged(store, owner)
    try:
        trash.move(store, owner)
    except NotFound:
        pass  # an earlier deletion was interrupted, or the snapshot was never committed
    except Corrupt as error:
        raise Corrupt(f"{error.message}: delete it with force", **error.facts) from None
    if not_ended and not _failed(store, owner):
        # Read back whole since: its run goes on, and the gate, which reads the metadata last, may have seen it.
        trash.undelete(store, snapshot_id)
        raise Refused(_NOT_ENDED.format(snapshot_id))
    force |= not_ended
    _give_up(store, owner, force)
    holdings = Holdings(store, threads)
    holdings.refresh()
    # What was deleted before and was needed until now goes with it.
    going = {owner} | (holdings.removing - holdings.pending.keys())
    in_trash = going & holdings.trash.keys()
    purged = purging.remove(holdings, in_trash, going - in_trash - holdings.committed.keys())
    purging.sweep(holdings)
    left = [info.key for info in store.list(keys.parts_of(*owner)) if keys.is_part(info.key)]
    return {"snapshot_id": snapshot_id, "machine": owner[0], "freed_bytes": purged.freed_bytes, "kept_parts": left}


def _give_up(store: Store, owner: Owner, force: bool) -> None:
    """Have the run that takes the snapshot, and whoever verifies it, write nothing more: they look at its documents
    before they complete an upload."""
    if force:
        store.delete(keys.pending(*owner))
    end_uploads(store, owner)
    with suppress(NotFound):
        trash.move(store, owner)  # again: it may have been committed before that


def _drop_damaged(store: Store, owner: Owner) -> None:
    """Remove those documents of a snapshot that are damaged: while they are there nothing can be removed."""
    for kind, key in ((Metadata, keys.metadata(*owner)), (Trashed, keys.trash(*owner))):
        try:
            kind.unseal(store.get(key), key)
        except NotFound:
            pass
        except Corrupt:
            store.delete(key)


def _failed(store: Store, owner: Owner) -> bool:
    try:
        return verified.read(store, *owner).failed
    except catalog.UNREADABLE:
        return False


def _owner_of(store: Store, snapshot_id: str, force: bool) -> tuple[str, str]:
    try:
        return trash.owner_of(store, snapshot_id)
    except NotFound:
        pending = (keys.owner_of(found.key) for found in store.list(keys.PENDING)) if force else iter(())
        owner = next((owner for owner in pending if owner is not None and owner[1] == snapshot_id), None)
        if owner is None:
            raise
        return owner
