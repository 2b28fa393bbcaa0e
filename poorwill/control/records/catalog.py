"""Which snapshots a store holds."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import Any

from poorwill.errors import Corrupt, NotFound, Unsupported
from poorwill.snapshot import ids, keys
from poorwill.snapshot.metadata import Metadata
from poorwill.store.base import Store

READ_MIN = 3
"""So many are read at least: if the store's clock was set back, what was committed last was not written last."""
SKEW_S_MAX = 86_400.0
"""An object that is said to have been written so long before its snapshot was begun has the time of something else."""


UNREADABLE = (NotFound, Corrupt, Unsupported)
"""What reading a document raises where trying again gives the same answer."""


def exists(store: Store, key: str) -> bool:
    """Whether an object of that key is there."""
    try:
        store.head(key)
    except NotFound:
        return False
    return True


def read(store: Store, machine: str, snapshot_id: str) -> Metadata:
    """A snapshot's metadata: its commit record. NotFound, Corrupt, Unsupported."""
    key = keys.metadata(machine, snapshot_id)
    return Metadata.unseal(store.get(key), key)


def committed(store: Store, machine: str, snapshot_id: str) -> Metadata | None:
    """A snapshot's metadata; None if it is not there, or not yet. Corrupt, Unsupported."""
    try:
        return read(store, machine, snapshot_id)
    except NotFound:
        return None


def machine_of(store: Store, snapshot_id: str) -> str:
    """The machine a snapshot belongs to. NotFound."""
    ids.checked_snapshot_id(snapshot_id)
    for found in store.list(keys.SNAPSHOTS):
        owner = keys.owner_of(found.key)
        if owner is not None and owner[1] == snapshot_id:
            return owner[0]
    raise NotFound(f"snapshot {snapshot_id} does not exist in {store.describe()}", snapshot=snapshot_id)


def find(store: Store, snapshot_id: str) -> Metadata:
    """The metadata of a snapshot of any machine."""
    return read(store, machine_of(store, snapshot_id), snapshot_id)


def names(store: Store, machine: str | None = None) -> Iterator[tuple[str, str]]:
    """(machine, snapshot id) of every committed snapshot, oldest first within a machine."""
    prefix = keys.SNAPSHOTS if machine is None else keys.metadata_of(machine)
    for found in store.list(prefix):
        owner = keys.owner_of(found.key)
        if owner is not None:  # else somebody else's object
            yield owner


def unfinished(store: Store, machine: str | None = None) -> Iterator[tuple[str, str]]:
    """(machine, snapshot id) of every run that has begun, and neither committed its snapshot nor given up."""
    for found in store.list(keys.PENDING):
        owner = keys.owner_of(found.key)
        if owner is None or machine not in (None, owner[0]) or found.key != keys.pending(*owner):
            continue
        if not exists(store, keys.metadata(*owner)):
            yield owner


def latest(store: Store, machine: str) -> str | None:
    """The newest committed snapshot of a machine, or None."""
    return next((snapshot_id for snapshot_id, _ in newest_first(store, machine)), None)


def newest_first(store: Store, machine: str) -> Iterator[tuple[str, Metadata | None]]:
    """The committed snapshots of a machine, the one that was committed last first; None for one that cannot be read.

    Few are read: what was written last is read first, and no snapshot was committed after it was written. Where one
    says that it was, as in a copy whose objects have other times, all of them are read. One that cannot be read counts
    as committed when it was written.
    """
    listed, trusted = [], True
    for found in store.list(keys.metadata_of(machine)):
        owner = keys.owner_of(found.key)
        if owner is not None:
            begun_s = ids.ranked_ms(owner[1], None) / 1000
            trusted &= found.modified_s > begun_s - SKEW_S_MAX
            listed.append((max(found.modified_s, begun_s), owner[1]))
    listed.sort()
    unread_max = len(listed) - READ_MIN
    read_: list[tuple[int, str, Metadata | None]] = []
    while listed or read_:
        # Some stores tell times in whole seconds, cut off.
        while listed and not (
            trusted and read_ and len(listed) <= unread_max and read_[-1][0] >= (listed[-1][0] + 1) * 1000
        ):
            written_s, snapshot_id = listed.pop()
            try:
                metadata = read(store, machine, snapshot_id)
            except NotFound:
                continue  # removed since it was listed
            except (Corrupt, Unsupported):
                insort(read_, (round(written_s * 1000), snapshot_id, None), key=_rank)
            else:
                trusted &= metadata.ranked_ms <= (written_s + 1) * 1000
                insort(read_, (metadata.ranked_ms, snapshot_id, metadata), key=_rank)
        if read_:
            yield read_.pop()[1:]


def _rank(found: tuple[int, str, Metadata | None]) -> tuple[int, str]:
    return found[:2]


def summary(metadata: Metadata) -> dict[str, Any]:
    """What a table of snapshots shows."""
    return {
        "name": metadata.name,
        "tags": list(metadata.tags),
        "snapshot_id": metadata.snapshot_id,
        "machine": metadata.machine,
        "created_at": metadata.created_at,
        "parent": metadata.parent,
        **dict(sorted(metadata.totals.document().items())),
    }
