"""How every snapshot comes to exist: each part completed, the manifest checked and written, then the metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import blake3
import numpy as np

from poorwill.codecs import registry
from poorwill.control.records import catalog
from poorwill.control.snapshot.presigned_grants import PartGrants
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.protocol.answers import ManifestSent, PartSent, SnapshotManifestSent
from poorwill.engine.protocol.asking import Request
from poorwill.errors import Corrupt, EngineFailed, NotFound, Refused, UploadLost
from poorwill.snapshot import fields, keys, limits, manifest
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.metadata import CodecTotals, Coding, ManifestReference, Metadata, Totals, UsedPart
from poorwill.snapshot.tables import Kind, Manifest
from poorwill.store.base import Check, Store

_NOT_COMMITTED = "the snapshot was not committed: do the same again, which uses only what is there"
Sent = TypeVar("Sent", ManifestSent, SnapshotManifestSent)


def complete_part(store: Store, grants: PartGrants, number: int, sent: PartSent, fence: Check) -> PartSent:
    """Complete the upload of a part that the engine was asked for, and has sent. fence: raises for an overtaken run."""
    if sent.part != number:
        raise Corrupt(f"the engine answered for part {sent.part}, expected part {number}")
    if sent.bytes:
        with _fenced(fence):
            fence()
            store.complete_upload(grants.key(number), grants.upload_of(number), list(sent.pieces), sent.bytes)
        grants.done(number)
    return sent


def write_manifest(
    store: Store,
    session: EngineSession,
    request: Request[Sent],
    owner: Owner,
    fence: Check,
    check: Callable[[Manifest], None] = lambda found: None,
) -> tuple[dict[str, Any], Sent]:
    """Take the manifest from the engine by the request, check it and that every part is there, and write it.

    Returns the fields of the metadata that follow from it, and the engine's answer. fence: raises for an overtaken run.
    check: may raise, for what else must be so. Then it is not written, nor if the snapshot is committed already.
    """
    data, sent = _fetch_manifest(session, request)
    key = keys.manifest(*owner)
    found = manifest.decode(data, key)
    if (found.machine, found.snapshot_id) != owner:
        raise Corrupt(f"the engine's manifest is of {found.machine}/{found.snapshot_id}")
    check(found)
    parts = _checked_parts(store, found)
    reference = ManifestReference(key, len(data), sent.blake3)
    there = catalog.committed(store, *owner)
    if there is not None:
        _check_ours(there, reference)
    else:
        with _fenced(fence):
            store.put_fenced(key, data, fence)
    described = {
        "needs": tuple(needs_of(found)),
        "manifest": reference,
        "parts": parts,
        "totals": totals(found, parts),
        "codecs": _totals_by_codec(found),
        "coding": Coding(**fields.write(sent.coding)) if sent.coding is not None else None,
    }
    return described, sent


def write_metadata(store: Store, metadata: Metadata, fence: Check) -> Metadata:
    """Make the snapshot exist. Returns what is there then, which is never replaced: it may be of an earlier call whose
    answer was lost. Refused if it is of another run."""
    with _fenced(fence):
        store.put_new(metadata.key, metadata.seal(), fence)
    there = catalog.read(store, *metadata.owner)
    _check_ours(there, metadata.manifest)
    return there


@contextmanager
def _fenced(fence: Check) -> Iterator[None]:
    """An upload that was lost, or an object of somebody else, because the run was overtaken is told as that."""
    try:
        yield
    except (UploadLost, NotFound, Corrupt):
        fence()
        raise


def _check_ours(there: Metadata, manifest: ManifestReference) -> None:
    if there.manifest != manifest:
        raise Refused(
            f"snapshot {there.snapshot_id} was committed by another run: this one was overtaken, and writes nothing"
        )


def _fetch_manifest(session: EngineSession, request: Request[Sent]) -> tuple[bytes, Sent]:
    pages, size = list[bytes](), 0

    def keep(page: bytes) -> None:
        nonlocal size
        size += len(page)
        if size > limits.MANIFEST_BYTES_MAX:
            raise Corrupt(f"the engine's manifest exceeds {limits.MANIFEST_BYTES_MAX} bytes")
        pages.append(page)

    sent = session.request(request, on_page=keep)
    data = b"".join(pages)
    if (len(data), blake3.blake3(data).hexdigest()) != (sent.bytes, sent.blake3):
        raise EngineFailed("the engine's manifest did not arrive whole")
    return data, sent


def _checked_parts(store: Store, found: Manifest) -> tuple[UsedPart, ...]:
    own = keys.parts_of(found.machine, found.snapshot_id)
    parts = []
    for row in range(len(found.parts)):
        key, size = found.parts.key(row), int(found.parts.size[row])
        try:
            there = store.head(key).size
        except NotFound as error:
            raise NotFound(f"{error.message}: {_NOT_COMMITTED}", **error.facts) from None
        if there != size:
            raise Corrupt(f"{key}: {there} bytes in the store, expected {size}: {_NOT_COMMITTED}")
        parts.append(UsedPart(key, size, borrowed=not key.startswith(own)))
    return tuple(parts)


def needs_of(found: Manifest) -> list[str]:
    """What a machine must have beyond a CPU to decode all chunks."""
    return sorted({need for codec in np.unique(found.chunks.codec).tolist() if (need := registry.needs(codec))})


def totals(found: Manifest, parts: Sequence[UsedPart]) -> Totals:
    """Sums for people: logical bytes of files, data bytes in them, what is stored for it, what was sent."""
    entries, chunks = found.entries, found.chunks
    own_rows = [row for row, part in enumerate(parts) if not part.borrowed]
    own = np.isin(chunks.part, own_rows)
    return Totals(
        entries=len(entries),
        files=int((entries.kind == Kind.FILE).sum()),
        chunks=len(chunks),
        parts=len(own_rows),
        raw_bytes=int(entries.size.sum(dtype=np.int64)),
        data_bytes=int(found.segments.length.sum(dtype=np.int64)),
        stored_bytes=int(chunks.stored.sum(dtype=np.int64)),
        sent_bytes=sum(part.bytes for part in parts if not part.borrowed),
        sent_raw_bytes=int(chunks.raw[own].sum(dtype=np.int64)),
    )


def _totals_by_codec(found: Manifest) -> dict[str, CodecTotals]:
    chunks = found.chunks
    return {
        registry.name(codec): CodecTotals(
            chunks=int((chunks.codec == codec).sum()),
            raw_bytes=int(chunks.raw[chunks.codec == codec].sum(dtype=np.int64)),
            stored_bytes=int(chunks.stored[chunks.codec == codec].sum(dtype=np.int64)),
        )
        for codec in np.unique(chunks.codec).tolist()
    }
