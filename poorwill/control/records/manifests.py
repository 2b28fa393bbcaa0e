"""The manifests of snapshots, as a store holds them."""

from __future__ import annotations

import blake3

from poorwill.errors import Corrupt
from poorwill.snapshot import limits, manifest
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.tables import Manifest
from poorwill.store.base import Store


def read(store: Store, metadata: Metadata) -> Manifest:
    """A snapshot's manifest, checked against the hash in its metadata. Corrupt, NotFound, Unsupported."""
    named = metadata.manifest
    data = store.get(named.key, bytes_max=limits.MANIFEST_BYTES_MAX)
    found = blake3.blake3(data).hexdigest()
    if found != named.blake3:
        raise Corrupt(
            f"{named.key}: hashes to {found}, expected {named.blake3}",
            object=named.key, found=found, expected=named.blake3,
        )  # fmt: skip
    return manifest.decode(data, named.key)
