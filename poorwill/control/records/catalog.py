"""Which snapshots a store holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from poorwill.errors import Corrupt, NotFound
from poorwill.snapshot import documents, ids, keys
from poorwill.snapshot.documents import Document
from poorwill.store.base import Store

TABLE_KEYS = ("snapshot_id", "machine", "created_at", "parent")


def read(store: Store, machine: str, snapshot_id: str) -> Document:
    """A snapshot's metadata: its commit record. NotFound, Corrupt, Unsupported."""
    key = keys.metadata(machine, snapshot_id)
    found = documents.unseal(store.get(key), "snapshot", key)
    if (found.get("machine"), found.get("snapshot_id")) != (machine, snapshot_id):
        raise Corrupt(f"{key}: describes {found.get('machine')}/{found.get('snapshot_id')}")
    return found


def machine_of(store: Store, snapshot_id: str) -> str:
    """The machine a snapshot belongs to. NotFound."""
    ids.checked_snapshot_id(snapshot_id)
    for found in store.list(keys.SNAPSHOTS):
        owner = keys.owner_of(found.key)
        if owner is not None and owner[1] == snapshot_id:
            return owner[0]
    raise NotFound(f"snapshot {snapshot_id} does not exist in {store.describe()}", snapshot=snapshot_id)


def find(store: Store, snapshot_id: str) -> Document:
    """The metadata of a snapshot of any machine."""
    return read(store, machine_of(store, snapshot_id), snapshot_id)


def names(store: Store, machine: str | None = None) -> Iterator[tuple[str, str]]:
    """(machine, snapshot id) of every committed snapshot, oldest first within a machine."""
    prefix = keys.SNAPSHOTS if machine is None else keys.metadata_of(machine)
    for found in store.list(prefix):
        owner = keys.owner_of(found.key)
        if owner is not None:  # else somebody else's object, which is no snapshot of ours
            yield owner


def latest(store: Store, machine: str) -> str | None:
    """The newest committed snapshot of a machine, or None."""
    return max((snapshot_id for _, snapshot_id in names(store, machine)), default=None)


def summary(document: Document) -> dict[str, Any]:
    """What a table of snapshots shows."""
    totals = document["totals"]
    labels = {"name": document.get("name"), "tags": document.get("tags", [])}
    return {**labels, **{k: document.get(k) for k in TABLE_KEYS}, **{k: totals[k] for k in sorted(totals)}}
