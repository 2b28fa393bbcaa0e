"""Removing one snapshot at a user's word, without harming any other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from poorwill.control import catalog
from poorwill.errors import NotFound
from poorwill.snapshot import documents, keys, limits
from poorwill.snapshot.documents import Document
from poorwill.store.base import Store


def delete(store: Store, snapshot_id: str) -> dict[str, Any]:
    """Remove a snapshot; parts that other snapshots, committed or being taken, may use are kept. Idempotent.

    Order: trash record, metadata (from here on the snapshot does not exist), then a look at who borrows, then
    the bytes. A snapshot begun meanwhile writes its pending record before it reads its parent's metadata
    again: either it is seen here, or it sees that the parent is gone. While something borrows, or is being
    compared with it, manifest, verification and trash record stay for a later removal.
    """
    machine = _machine_of(store, snapshot_id)
    trash_key = keys.trash(machine, snapshot_id)
    try:
        document = catalog.read(store, machine, snapshot_id)
        body = {**document, "format": f"poorwill-trash/{limits.FORMAT_VERSION}", "trashed_at_s": int(time.time())}
        store.put(trash_key, documents.seal(body))
        store.delete(keys.metadata(machine, snapshot_id))
    except NotFound:
        documents.unseal(store.get(trash_key), "trash", trash_key)
    used = referenced_parts(store)
    compared = any(pending["parent"] == snapshot_id for pending in _being_taken(store))
    kept, freed = [], 0
    for found in list(store.list(keys.parts_of(machine, snapshot_id))):
        if found.key in used:
            kept.append(found.key)
            continue
        store.delete(found.key)
        freed += found.size
    if not kept and not compared:
        store.delete(keys.manifest(machine, snapshot_id))
        store.delete(keys.verified(machine, snapshot_id))
        store.delete(trash_key)
    return {"snapshot_id": snapshot_id, "machine": machine, "freed_bytes": freed, "kept_parts": kept}


def _machine_of(store: Store, snapshot_id: str) -> str:
    try:
        return catalog.machine_of(store, snapshot_id)
    except NotFound:
        # An earlier deletion may have been cut off after the metadata was gone.
        for found in store.list(keys.TRASH):
            owner = keys.owner_of(found.key)
            if owner is not None and owner[1] == snapshot_id:
                return owner[0]
        raise


def referenced_parts(store: Store) -> set[str]:
    """Keys of all parts that a committed snapshot uses, or that one being taken may come to use."""
    used: set[str] = set()
    for machine, snapshot_id in catalog.names(store):
        try:
            used |= {part["key"] for part in catalog.read(store, machine, snapshot_id)["parts"]}
        except NotFound:
            continue  # removed since it was listed
    for pending in _being_taken(store):
        borrowed = set(pending["borrows"])
        used |= {f.key for f in store.list(keys.PARTS) if (keys.owner_of(f.key) or ("", ""))[1] in borrowed}
    return used


def _being_taken(store: Store) -> Iterator[Document]:
    for found in store.list(keys.PENDING):
        if keys.owner_of(found.key) is None:
            continue  # somebody else's object
        try:
            yield documents.unseal(store.get(found.key), "pending", found.key)
        except NotFound:
            continue  # finished since it was listed
