"""How every snapshot comes to exist: each part completed, the manifest checked and written, then the metadata."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import blake3
import numpy as np

from poorwill.codecs import registry
from poorwill.control.snapshot.grants import PartGrants
from poorwill.control.snapshot.session import EngineSession
from poorwill.errors import Corrupt, EngineFailed
from poorwill.snapshot import keys, limits, manifest
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.metadata import CodecTotals, Coding, ManifestReference, Totals, UsedPart
from poorwill.snapshot.tables import Kind, Manifest
from poorwill.store.base import Piece, Store

TEXT_MAX = 500


@dataclass(slots=True)
class PartDone:
    """A part that is complete in the store."""

    number: int
    size: int
    chunks: int
    raw_bytes: int
    stored_bytes: int
    seconds: float


def complete_part(store: Store, grants: PartGrants, number: int, result: dict[str, Any], began_s: float) -> PartDone:
    """Complete the upload of a part that the engine has sent, as its `result` says; began_s is monotonic."""
    size = int(result["bytes"])
    if size:
        pieces = [Piece(int(p["number"]), str(p["tag"]), int(p["size"])) for p in result["pieces"]]
        store.complete_upload(grants.key(number), grants.upload_of(number), pieces, size)
        grants.done(number)
    return PartDone(
        number, size, int(result["chunks"]), int(result["raw_bytes"]), int(result["stored_bytes"]),
        time.monotonic() - began_s,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Written:
    """A manifest that is in the store, and what the engine told about it."""

    manifest: Manifest
    parts: tuple[UsedPart, ...]
    told: dict[str, Any]
    named: ManifestReference

    def described(self) -> dict[str, Any]:
        """The fields of the metadata that follow from the manifest."""
        return {
            "needs": tuple(needs_of(self.manifest)),
            "manifest": self.named,
            "parts": self.parts,
            "totals": totals(self.manifest, self.parts),
            "codecs": _totals_by_codec(self.manifest),
            "coding": _coding(self.told.get("coding")),
        }


def write_manifest(
    store: Store,
    session: EngineSession,
    op: str,
    owner: Owner,
    check: Callable[[Manifest], None] = lambda found: None,
) -> Written:
    """Take the manifest from the engine by the request `op`, check it and that every part is there, and write it.

    check: may raise, for what else must be so; then it is not written.
    """
    data, told = _fetch_manifest(session, op)
    key = keys.manifest(*owner)
    found = manifest.decode(data, key)
    if (found.machine, found.snapshot_id) != owner:
        raise Corrupt(f"the engine's manifest is of {found.machine}/{found.snapshot_id}")
    check(found)
    parts = _checked_parts(store, found)
    store.put(key, data)
    return Written(found, parts, told, ManifestReference(key, len(data), told["blake3"]))


def _fetch_manifest(session: EngineSession, op: str) -> tuple[bytes, dict[str, Any]]:
    pages, size = list[bytes](), 0

    def keep(event: dict[str, Any]) -> None:
        nonlocal size
        try:
            page = base64.b64decode(str(event.get("data", "")), validate=True)
        except ValueError:
            raise Corrupt("the engine's manifest did not arrive as base64") from None
        size += len(page)
        if size > limits.MANIFEST_BYTES_MAX:
            raise Corrupt(f"the engine's manifest exceeds {limits.MANIFEST_BYTES_MAX} bytes")
        pages.append(page)

    told = session.request(op, on_event=keep)
    data = b"".join(pages)
    if (len(data), blake3.blake3(data).hexdigest()) != (told["bytes"], told["blake3"]):
        raise EngineFailed("the engine's manifest did not arrive whole")
    return data, told


def _checked_parts(store: Store, found: Manifest) -> tuple[UsedPart, ...]:
    own = keys.parts_of(found.machine, found.snapshot_id)
    parts = []
    for row in range(len(found.parts)):
        key, size = found.parts.key(row), int(found.parts.size[row])
        there = store.head(key).size
        if there != size:
            raise Corrupt(f"{key}: {there} bytes in the store, expected {size}: the snapshot was not committed")
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


def _coding(told: Any) -> Coding | None:
    """Who coded and why, as the engine tells it, cut to what a document may hold; None where nothing was coded."""
    if not isinstance(told, dict):
        return None
    return Coding(
        by=_text(told, "by"),
        codec=_text(told, "codec"),
        reason=_text(told, "reason"),
        warning=_text(told, "warning"),
        rates_mb_s={k: v for k, v in _entries(told.get("rates_mb_s")) if type(v) is int and 0 <= v < 1 << 53},
        versions={k: str(v)[:TEXT_MAX] for k, v in _entries(told.get("versions"))},
        fell_back=told["fell_back"] if type(told.get("fell_back")) is int and told["fell_back"] >= 0 else 0,
    )


def _text(told: dict[str, Any], name: str) -> str:
    return str(told.get(name, ""))[:TEXT_MAX]


def _entries(told: Any) -> list[tuple[str, Any]]:
    return [(str(k)[:40], v) for k, v in list(told.items())[:8]] if isinstance(told, dict) else []


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
