"""Which snapshots a store holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from poorwill.errors import NotFound
from poorwill.snapshot import ids, keys
from poorwill.snapshot.metadata import Metadata
from poorwill.store.base import Store


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


def latest(store: Store, machine: str) -> str | None:
    """The newest committed snapshot of a machine, or None."""
    return max((snapshot_id for _, snapshot_id in names(store, machine)), default=None)


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
