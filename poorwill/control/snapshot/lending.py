"""What a snapshot may lend to the next one: all of its chunks, or, while there is a doubt about it, none."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from poorwill.control.records import catalog, trash, verified
from poorwill.control.records.verified import Verified
from poorwill.engine.transfer.part_reading import read_index
from poorwill.errors import NotFound
from poorwill.snapshot import keys
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.metadata import Metadata
from poorwill.store.base import Store

LOOKS_AT_ONCE = 16


def doubt_about(store: Store, parent: Metadata, *, unverified_lends: bool = False) -> str | None:
    """Why nothing may be borrowed from a snapshot, in words that follow its name; None if all of it may be.

    Its verification has to prove it, for what it lends is not read again soon; with `unverified_lends` it need only not
    have failed, by itself or in what others use of it. Its manifest and every part it needs must have their sizes in
    the store, and the parts their indexes.
    """
    try:
        record = _record(store, parent)
        if record is not None and record.failure is not None:
            return f"not all of it could be read back ({record.failure})"
        if not unverified_lends:
            if record is None:
                return "it was never verified"
            if not record.proves:
                return f"it was verified by '{record.mode}', which is not enough"
            unread = record.unread(parent)
            if unread:
                return f"{len(unread)} of its parts were never read back"
        return lost_with_others(store, parent, record) or _missing(store, parent)
    except catalog.UNREADABLE as error:
        return error.message


doubt_about_backup = partial(doubt_about, unverified_lends=True)
"""For snapshots that prove nothing themselves."""


def withdraw(store: Store, part: str, failure: str) -> None:
    """Note on the snapshot that a part belongs to that it was found damaged or lost when another one was read: it
    proves and lends nothing until it was verified anew itself. NotFound if there is no such snapshot, nor in the trash.
    """
    owner = keys.owner_of(part)
    assert owner is not None
    try:
        record = replace(verified.read(store, *owner), failure=failure)
    except catalog.UNREADABLE:
        record = Verified.of(_metadata(store, owner), "sample", {}, failure=failure)
    parts = tuple(replace(each, read=each.read and each.key != part) for each in record.parts)
    store.put(record.key, replace(record, parts=parts, verified_at_s=int(time.time())).seal())


def _metadata(store: Store, owner: Owner) -> Metadata:
    try:
        return catalog.read(store, *owner)
    except NotFound:
        return trash.read(store, owner).metadata()


def _record(store: Store, snapshot: Metadata) -> Verified | None:
    """Its verification record; None without one, or with one of another manifest, which is void."""
    try:
        record = verified.read(store, *snapshot.owner)
    except NotFound:
        return None
    return record if record.manifest == snapshot.manifest else None


def lost_with_others(store: Store, snapshot: Metadata, record: Verified | None) -> str | None:
    """That a part it borrows is of a snapshot of which parts were found damaged, unless `record` has read it since."""
    borrowed = {part.key for part in snapshot.parts if part.borrowed}
    for owner in sorted({owner for key in borrowed if (owner := keys.owner_of(key)) is not None}):
        try:
            lender = verified.read(store, *owner)
        except catalog.UNREADABLE:
            continue  # nothing is said against it
        if lender.failure is None:
            continue
        read = record.read_keys if record is not None and record.verified_at_s > lender.verified_at_s else frozenset()
        if any(key.startswith(keys.parts_of(*owner)) for key in borrowed - read):
            return f"it uses parts of {owner[1]}, of which not all could be read back ({lender.failure})"
    return None


def _missing(store: Store, parent: Metadata) -> str | None:
    """That an object has another size than it should. `catalog.UNREADABLE` also for a part without its index."""

    def look(key: str, size: int, is_part: bool) -> str | None:
        there = store.head(key).size
        if there == size and is_part:
            read_index(_Stored(store, key), size, key)
        return None if there == size else f"{key} has {there} bytes in the store, expected {size}"

    wanted = [(part.key, part.bytes, True) for part in parent.parts]
    wanted.append((parent.manifest.key, parent.manifest.bytes, False))
    with ThreadPoolExecutor(min(LOOKS_AT_ONCE, len(wanted))) as threads:
        return next(filter(None, threads.map(look, *zip(*wanted, strict=True))), None)


@dataclass(slots=True)
class _Stored:
    """An object, read from here."""

    store: Store
    key: str
    remote: bool = True

    def read(self, start: int, into: memoryview) -> None:
        into[:] = self.store.get_range(self.key, start, len(into))

    def close(self) -> None: ...
