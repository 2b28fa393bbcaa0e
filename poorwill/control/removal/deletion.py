"""Removing one snapshot at a user's request, at once, without harm to others."""

from __future__ import annotations

from typing import Any

from poorwill.control.records import catalog, trash, verified
from poorwill.control.records.holdings import THREADS, Holdings
from poorwill.control.removal import purging
from poorwill.errors import Corrupt, NotFound, Refused, Unsupported
from poorwill.snapshot import ids, keys
from poorwill.snapshot.keys import Owner
from poorwill.store.base import Store

_NOT_ENDED = (
    "the run that takes snapshot {} has not ended: wait for it, run it again to its end, or delete with force to give "
    "it up"
)


def delete(store: Store, snapshot_id: str, *, force: bool = False, threads: int = THREADS) -> dict[str, Any]:
    """Remove a snapshot, except parts that others may use: committed, in the trash or being taken. Idempotent.

    Both phases of a removal, without the grace period between them: a running wake from this snapshot fails. Refused
    while the run that takes this snapshot has not ended (it may be about to destroy the machine), unless the snapshot
    could not be read back, by which that run came to nothing, or with `force`, which also gives up an interrupted run;
    no other run may work on the snapshot then. NotFound; Refused if something cannot be read: then the snapshot stays
    in the trash.
    """
    owner = _owner_of(store, ids.checked_snapshot_id(snapshot_id), force)
    not_ended = not force and catalog.exists(store, keys.pending(*owner))
    if not_ended and not _failed(store, owner):
        raise Refused(_NOT_ENDED.format(snapshot_id))
    try:
        trash.move(store, owner)
    except NotFound:
        pass  # an earlier deletion was interrupted, or the snapshot was never committed
    if not_ended and not _failed(store, owner):
        # Read back whole since: its run goes on, and the gate, which reads the metadata last, may have seen it.
        trash.undelete(store, snapshot_id)
        raise Refused(_NOT_ENDED.format(snapshot_id))
    force |= not_ended
    holdings = Holdings(store, threads)
    uploads = list(store.list_uploads(keys.parts_of(*owner)))
    if force:
        store.delete(keys.pending(*owner))
    holdings.refresh()
    in_trash = {owner} & holdings.trash.keys()
    purged = purging.remove(holdings, in_trash, {owner} - in_trash - holdings.committed.keys())
    for key, upload_id in uploads:
        store.abort_upload(key, upload_id)
    left = [info.key for info in store.list(keys.parts_of(*owner)) if keys.is_part(info.key)]
    return {"snapshot_id": snapshot_id, "machine": owner[0], "freed_bytes": purged.freed_bytes, "kept_parts": left}


def _failed(store: Store, owner: Owner) -> bool:
    try:
        return verified.read(store, *owner).failed
    except (NotFound, Corrupt, Unsupported):
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
