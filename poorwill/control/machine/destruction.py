"""Whether a machine may be destroyed, by what is read from the store again at that moment."""

from __future__ import annotations

import os

from poorwill.control.machine import last_look
from poorwill.control.machine.succession import check_succession, check_surroundings
from poorwill.control.records import catalog, manifests, prospects, verified
from poorwill.control.snapshot.lending import lost_with_others
from poorwill.control.snapshot.presigned_grants import ReadGrants
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.protocol.answers import Changes
from poorwill.engine.protocol.requests import Changed
from poorwill.errors import Refused
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.order import SnapshotOrder
from poorwill.store.base import ObjectInfo, Store

SCAN_DEADLINE_S = 3600.0
PROSPECTS_SHOWN = 5


def check_destroyable(
    store: Store, machine: str, snapshot_id: str, instance: str, *, allow_shrink: bool = False
) -> Metadata:
    """The snapshot's metadata, if nothing is lost with `instance`. Refused otherwise, saying what is missing.

    It needs the committed metadata of this instance; a verification record of mode stored or full that names this
    snapshot, instance and manifest, and every part read, now or recently; the manifest, hashed now; and the size of
    every part, asked for now. And it may not hold much less than those before it, or another directory, unless
    `allow_shrink`, or its metadata, says that this is meant.
    """
    keep = f"instance {instance} of machine {machine} was not destroyed and goes on billing"
    try:
        metadata = _checked(store, machine, snapshot_id, instance, keep)
        if not (allow_shrink or metadata.allow_shrink):
            check_succession(store, metadata, keep)
        # Again: whoever deletes it takes it away first and looks at the record second; one of the two sees the other.
        return catalog.read(store, machine, snapshot_id)
    except catalog.UNREADABLE as error:
        raise Refused(f"snapshot {snapshot_id} is not committed and verified: {error.message}: {keep}") from None


def _checked(store: Store, machine: str, snapshot_id: str, instance: str, keep: str) -> Metadata:
    metadata = catalog.read(store, machine, snapshot_id)
    record = verified.read(store, machine, snapshot_id)
    expected = (machine, snapshot_id, instance)
    found = (*record.owner, record.instance)
    if metadata.instance != instance or (*found, record.manifest) != (*expected, metadata.manifest):
        raise Refused(f"the verification record of {snapshot_id} is of {found}, expected {expected}: {keep}")
    if record.failed:
        raise Refused(
            f"snapshot {snapshot_id} cannot be read back ({record.failure}): {keep}; hibernate it again, and delete "
            "this snapshot once the new one is verified"
        )
    if not record.proves:
        raise Refused(f"snapshot {snapshot_id} was verified by '{record.mode}', which is not enough: {keep}")
    unread = record.unread(metadata)
    if unread:
        raise Refused(f"{len(unread)} parts of {snapshot_id} were never read back: {keep}")
    doubt = lost_with_others(store, metadata, record)
    if doubt:
        raise Refused(f"snapshot {snapshot_id} may not be whole: {doubt}: {keep}; hibernate it again")
    manifest = manifests.read(store, metadata)
    held = [store.head(metadata.key), store.head(metadata.manifest.key)]
    for row in range(len(manifest.parts)):
        key, size = manifest.parts.key(row), int(manifest.parts.size[row])
        held.append(store.head(key))
        if held[-1].size != size:
            raise Refused(f"{key}: its size in the store is not {size} any more: {keep}")
    _check_prospects(store, held, keep)
    return metadata


def _check_prospects(store: Store, held: list[ObjectInfo], keep: str) -> None:
    """Refused if an object lies in an archive, or the store says that it will delete it."""
    going = [said for info in held if (said := prospects.archived(info) or prospects.deleted(info)) is not None]
    going += prospects.Rules.of(store).deleting(info.key for info in held)
    if going:
        shown = "; ".join(going[:PROSPECTS_SHOWN]) + ("; .." if len(going) > PROSPECTS_SHOWN else "")
        raise Refused(
            f"the snapshot would not stay readable: {shown}: {keep}; exclude the store from the bucket's rules that "
            "delete or archive objects, then hibernate again (with parent='none', if what is archived is of an earlier "
            "snapshot)"
        )


def check_unchanged(store: Store, session: EngineSession, order: SnapshotOrder, metadata: Metadata) -> Changes:
    """What the last look at the workspace found. Refused if it is another directory than the one that was packed,
    unless `allow_shrink` says that this is meant; if it differs from the snapshot, as somebody has worked on it since;
    or if something can still write to it."""
    found = changes(store, session, order, metadata)
    if not (order.allow_shrink or metadata.allow_shrink):
        keep = f"machine {order.machine} was not destroyed and goes on billing"
        check_surroundings(metadata, found.surroundings, keep)
    last_look.check(found, order)
    return found


def changes(store: Store, session: EngineSession, order: SnapshotOrder, metadata: Metadata) -> Changes:
    """How the workspace differs now from a snapshot of it, who may write there, and what lies around."""
    answer = ReadGrants(store, {metadata.manifest.key}).answer
    left_out = tuple(os.fsencode(left.path) for left in metadata.left_out)
    changed = Changed(order, metadata.manifest, left_out)
    return session.request(changed, deadline_s=SCAN_DEADLINE_S, answer=answer)
