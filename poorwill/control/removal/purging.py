"""The second phase of removing snapshots: their objects, once nothing needs them and a grace period is over.

It is safe while anything else works on the store. Each snapshot is marked first; then everything that may need a part
is listed, in the order of Holdings.refresh; then the parts that nothing needs are deleted. A run that comes to need
parts of a marked snapshot later (it continues an interrupted one, or undeletes) has written a pending record first, and
then sees the mark or the trash record. A run that borrows parts then reads its parent's metadata, which is gone. A wake
writes nothing: only the grace period, which must be longer than a wake takes, protects one that began before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from poorwill.control.records import catalog, clock
from poorwill.control.records.holdings import Holdings, Needs, at_once
from poorwill.control.records.pending import uploads_of
from poorwill.control.records.trash import Removing
from poorwill.snapshot import keys
from poorwill.snapshot.keys import Owner
from poorwill.store.base import ObjectInfo, Store

DOCUMENTS = (keys.manifest, keys.verified, keys.trash, keys.removing)
"""What is deleted after the parts, in this order: without the mark, which is last, a trash record can be undeleted."""


@dataclass(slots=True)
class Usage:
    """The objects of one snapshot in a store: parts, manifest and verification record. Bytes are those of parts."""

    part_bytes: int = 0
    modified_s: float = 0.0  # of the newest object, by the store's clock
    verified: bool = False


@dataclass(slots=True)
class Purged:
    """What a purge did, by snapshot in bytes of parts. `kept`: of those in the trash, what others need. `unused`: what
    went because nothing used it."""

    freed_bytes: int = 0
    removed: list[Owner] = field(default_factory=list)
    abandoned: list[Owner] = field(default_factory=list)
    kept: dict[Owner, int] = field(default_factory=dict)
    unused: dict[Owner, int] = field(default_factory=dict)
    uploads_aborted: int = 0


def usage(store: Store) -> dict[Owner, Usage]:
    """The objects under parts/, manifests/ and verified/, by snapshot. Keys that are not ours are left out."""
    found: dict[Owner, Usage] = {}
    for prefix in (keys.PARTS, keys.MANIFESTS, keys.VERIFIED):
        for info in store.list(prefix):
            owner = _owner(prefix, info)
            if owner is not None:
                sums = found.setdefault(owner, Usage())
                sums.modified_s = max(sums.modified_s, info.modified_s)
                sums.part_bytes += info.size if prefix == keys.PARTS else 0
                sums.verified |= prefix == keys.VERIFIED
    return found


def purge(holdings: Holdings, grace_s: float) -> Purged:
    """Remove what has been in the trash for `grace_s`, what was abandoned for as long, and at any age parts that their
    own, committed snapshot does not use, uploads without an owner and objects that were to tell the time.

    Abandoned are objects of snapshots that are neither committed, nor pending, nor in the trash. Refused if something
    cannot be read. Safe to interrupt and to repeat.
    """
    store = holdings.store
    now_s = clock.store_time_s(store)
    lying, uploads = usage(store), list(uploads_of(store))
    holdings.refresh()
    holdings.check_readable()
    left = abandoned(holdings, lying, now_s, grace_s)
    purged = remove(holdings, expired(holdings, now_s, grace_s), left, lying)
    for owner in unused(holdings, lying):
        purged.unused[owner] = _remove_unused(holdings, owner)
    purged.freed_bytes += sum(purged.unused.values())
    purged.uploads_aborted = _abort_unowned(holdings, uploads)
    sweep(holdings)
    return purged


def unused(holdings: Holdings, lying: dict[Owner, Usage]) -> dict[Owner, int]:
    """Committed snapshots that have own parts which they do not use, and the bytes of these.

    They are of tries that were cut off, or hold what changed before it had settled. No part is added to a snapshot that
    is committed, and only what it uses is ever lent. `lying` was listed before the holdings.
    """
    found = {}
    for owner in lying.keys() & holdings.committed.keys() - holdings.pending.keys():
        held = holdings.committed[owner]
        left_bytes = lying[owner].part_bytes - int(held.sizes[holdings.own(held)].sum(dtype=np.int64))
        if left_bytes > 0:
            found[owner] = left_bytes
    return found


def sweep(holdings: Holdings) -> None:
    """Remove the objects of processes that were killed while they asked what time it is."""
    for stray in holdings.strays:
        holdings.store.delete(stray.key)


def expired(holdings: Holdings, now_s: float, grace_s: float) -> set[Owner]:
    """What has been in the trash for long enough, or is partly removed, unless a run continues it."""
    return {
        owner
        for owner, held in holdings.trash.items()
        if owner not in holdings.committed
        and owner not in holdings.pending
        and (owner in holdings.removing or not grace_s or now_s - held.modified_s >= grace_s)
    }


def abandoned(holdings: Holdings, lying: dict[Owner, Usage], now_s: float, grace_s: float) -> set[Owner]:
    """Snapshots that have had objects for long enough and are neither committed, nor pending, nor in the trash.

    `lying` was listed before the holdings, so that the pending record or the metadata of what is in it is seen by then.
    """
    known = {*holdings.committed, *holdings.pending, *holdings.trash}
    old = {owner for owner, found in lying.items() if not grace_s or now_s - found.modified_s >= grace_s}
    return (old | holdings.removing) - known


def remove(
    holdings: Holdings, trashed: set[Owner], leftover: set[Owner], lying: dict[Owner, Usage] | None = None
) -> Purged:
    """Remove snapshots of the trash, and what is left over of others, except what is needed.

    What these snapshots need themselves does not count: they cannot be undeleted any more. lying: the objects of each,
    if known, which saves listing snapshots that cannot shrink. Refused if something cannot be read.
    """
    store, threads = holdings.store, holdings.threads
    marked = trashed | leftover
    for _ in at_once(lambda owner: _mark(store, owner), sorted(marked - holdings.removing), threads):
        pass
    holdings.refresh()  # after the marks: whatever is not listed now will see them
    holdings.check_readable()
    alive = {*holdings.committed, *holdings.pending}
    for owner in marked & alive:
        store.delete(keys.removing(*owner))  # it was undeleted, or continued, just before it was marked
    needs = holdings.needs(without=(marked | holdings.removing) - alive)
    purged = Purged(kept=_kept(holdings, needs, trashed - alive))
    todo = sorted(owner for owner in marked - alive if lying is None or _can_shrink(owner, purged.kept, lying))
    for owner, (freed_bytes, gone) in at_once(lambda owner: _remove(holdings, owner, needs), todo, threads):
        purged.freed_bytes += freed_bytes
        if gone:
            (purged.removed if owner in trashed else purged.abandoned).append(owner)
    return purged


def _can_shrink(owner: Owner, kept: dict[Owner, int], lying: dict[Owner, Usage]) -> bool:
    return owner not in kept or owner not in lying or lying[owner].part_bytes > kept[owner]


def _owner(prefix: str, info: ObjectInfo) -> Owner | None:
    owner = keys.owner_of(info.key)
    if owner is None or not info.key.startswith(prefix):
        return None
    named = {keys.MANIFESTS: keys.manifest(*owner), keys.VERIFIED: keys.verified(*owner)}.get(prefix)
    return owner if named == info.key or (named is None and keys.is_part(info.key)) else None


def _kept(holdings: Holdings, needs: Needs, expired: set[Owner]) -> dict[Owner, int]:
    kept: dict[Owner, int] = {}
    for owner in sorted(expired & holdings.trash.keys()):
        held = holdings.trash[owner]
        own = holdings.own(held)
        needed_bytes = int(held.sizes[own][needs.of(owner, held.parts[own])].sum(dtype=np.int64))
        if needed_bytes:
            kept[owner] = needed_bytes
    return kept


def _mark(store: Store, owner: Owner) -> None:
    mark = Removing(machine=owner[0], snapshot_id=owner[1])
    store.put(mark.key, mark.seal())


def _remove(holdings: Holdings, owner: Owner, needs: Needs) -> tuple[int, bool]:
    """Delete the objects of a marked snapshot that nothing needs. Returns their bytes, and whether all are gone."""
    store, freed = holdings.store, 0
    parts = [info for info in store.list(keys.parts_of(*owner)) if keys.is_part(info.key)]
    needed = needs.of(owner, holdings.numbers.of(info.key for info in parts))
    for info, stays in zip(parts, needed.tolist(), strict=True):
        if not stays:
            store.delete(info.key)
            freed += info.size
    if needed.any() or holdings.is_parent(owner):
        return freed, False
    for key in DOCUMENTS:
        store.delete(key(*owner))
    return freed, True


def _remove_unused(holdings: Holdings, owner: Owner) -> int:
    store, freed = holdings.store, 0
    needs = holdings.needs()
    parts = [info for info in store.list(keys.parts_of(*owner)) if keys.is_part(info.key)]
    if not catalog.exists(store, keys.metadata(*owner)) or catalog.exists(store, keys.pending(*owner)):
        return 0  # it was removed, and is taken again
    needed = needs.of(owner, holdings.numbers.of(info.key for info in parts))
    for info, stays in zip(parts, needed.tolist(), strict=True):
        if not stays:
            store.delete(info.key)
            freed += info.size
    return freed


def _abort_unowned(holdings: Holdings, uploads: list[tuple[str, str]]) -> int:
    """`uploads` were listed before the pending records, so that these include the owner of each upload that has one, or
    the record by which its undeletion holds on to it."""
    aborted, held = 0, holdings.needs().whole
    for key, upload_id in uploads:
        owner = keys.owner_of(key)
        if owner is not None and owner not in holdings.pending and owner[1] not in held:
            holdings.store.abort_upload(key, upload_id)
            aborted += 1
    return aborted
