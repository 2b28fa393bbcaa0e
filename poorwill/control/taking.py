"""Taking a snapshot, as the control side does it: pending record first, metadata last."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import blake3
import numpy as np

from poorwill import __version__
from poorwill.codecs import registry
from poorwill.control import catalog, trash
from poorwill.control.grants import PartGrants, ReadGrants
from poorwill.control.session import EngineSession
from poorwill.errors import Corrupt, EngineFailed, NotFound, Refused, UsageError
from poorwill.snapshot import documents, ids, keys, labels, limits, manifest
from poorwill.snapshot.documents import Document
from poorwill.snapshot.tables import Kind, Manifest
from poorwill.store.base import Piece, Store

STEP_DEADLINE_S = 6 * 3600.0
CODECS = ("auto", "ans", "planes", "zstd", "raw")


@dataclass(frozen=True, slots=True)
class Order:
    """What to take a snapshot of. `instance` names the rented machine, for the verification record."""

    machine: str
    snapshot_id: str
    workspace: str
    instance: str = ""
    parent: str | None = None
    codec: str = "auto"
    portable: bool = False
    parts: int = limits.PARTS
    exclude: tuple[str, ...] = ()
    skip_unreadable: bool = False
    name: str | None = None
    tags: tuple[str, ...] = ()

    def check(self) -> Order:
        """Itself, or UsageError."""
        ids.checked_machine_name(self.machine)
        ids.checked_snapshot_id(self.snapshot_id)
        if self.codec not in CODECS:
            raise UsageError(f"codec '{self.codec}': expected one of {', '.join(CODECS)}")
        if not 1 <= self.parts <= limits.PARTS:
            raise UsageError(f"parts {self.parts}: expected 1 to {limits.PARTS}")
        labels.checked_name(self.name)
        labels.checked_tags(self.tags)
        return self

    def labels(self) -> dict[str, Any]:
        """Name and tags as fields of the metadata, which has them only where they are given."""
        given = {"name": labels.checked_name(self.name), "tags": list(labels.checked_tags(self.tags))}
        return {name: value for name, value in given.items() if value}

    def settings(self) -> dict[str, Any]:
        """What the engine needs of it."""
        return {
            "machine": self.machine,
            "snapshot_id": self.snapshot_id,
            "workspace": self.workspace,
            "exclude": list(self.exclude),
            "codec": self.codec,
            "portable": self.portable,
            "parts": self.parts,
            "skip_unreadable": self.skip_unreadable,
        }


@dataclass(slots=True)
class PartDone:
    """A part that is complete in the store."""

    number: int
    size: int
    chunks: int
    raw_bytes: int
    stored_bytes: int
    seconds: float


@dataclass(slots=True)
class SnapshotRun:
    """One snapshot being taken: `open`, `scan`, `pack_part` for every planned part, `settle` until nothing is
    planned, `write_metadata`. Each step may be repeated after it failed.

    A run that is begun again with the id of one that was killed keeps the parts that had been completed.
    """

    store: Store
    session: EngineSession
    order: Order
    planned: dict[int, int] = field(default_factory=dict)
    scanned: dict[str, Any] = field(default_factory=dict)
    done: dict[int, PartDone] = field(default_factory=dict)
    timings_ms: dict[str, int] = field(default_factory=dict)
    adopted: list[dict[str, Any]] = field(default_factory=list)
    _parent: Document | None = None
    _parts: PartGrants = field(init=False)

    def __post_init__(self) -> None:
        self.order.check()
        self._parts = PartGrants(self.store, self.order.machine, self.order.snapshot_id)

    @property
    def _pending_key(self) -> str:
        return keys.pending(self.order.machine, self.order.snapshot_id)

    def open(self) -> Document | None:
        """Write the pending record, then read the parent again; the metadata if this snapshot is already committed.

        Refused when the id is pending for another workspace, or is that of a snapshot that was removed. Whoever
        removes snapshots moves their metadata away first and looks for pending records second: one of the two sees
        the other.
        """
        try:
            return catalog.read(self.store, self.order.machine, self.order.snapshot_id)
        except NotFound:
            pass  # the usual case: it is about to be taken
        owner = self.order.machine, self.order.snapshot_id
        trash.check_not_removed(self.store, owner)
        parent = self._find_parent()
        self._write_pending(parent)
        try:
            trash.check_not_removed(self.store, owner)  # again: its parts may be about to go
        except Refused:
            self.remove_pending()
            raise
        if parent is not None:
            try:
                self._parent = catalog.read(self.store, parent["machine"], parent["snapshot_id"])
            except NotFound:
                self._parent = None
                self._write_pending(None)
        prefix = keys.parts_of(self.order.machine, self.order.snapshot_id)
        for key, upload in self.store.list_uploads(prefix):
            self.store.abort_upload(key, upload)
        self.adopted = [
            {"key": found.key, "number": int(found.key[-2:]), "size": found.size}
            for found in self.store.list(prefix)
            if keys.is_part(found.key)
        ]
        return None

    def _find_parent(self) -> Document | None:
        if self.order.parent is not None:
            return catalog.find(self.store, self.order.parent)
        newest = catalog.latest(self.store, self.order.machine)
        try:
            return catalog.read(self.store, self.order.machine, newest) if newest else None
        except NotFound:
            return None  # removed since it was listed

    def _write_pending(self, parent: Document | None) -> None:
        try:
            before = documents.unseal(self.store.get(self._pending_key), "pending", self._pending_key)
        except NotFound:
            before = None
        if before is not None and before["workspace"] != self.order.workspace:
            raise Refused(
                f"snapshot {self.order.snapshot_id} was begun for {before['workspace']}, not {self.order.workspace}: "
                "use another id"
            )
        borrows = sorted({part["key"].split("/")[2] for part in parent["parts"]}) if parent else []
        self.store.put(self._pending_key, documents.seal({
            "format": f"poorwill-pending/{limits.FORMAT_VERSION}",
            "machine": self.order.machine,
            "snapshot_id": self.order.snapshot_id,
            "workspace": self.order.workspace,
            "instance": self.order.instance,
            "parent": parent["snapshot_id"] if parent else None,
            "borrows": borrows,
            "plan_hash": self.scanned.get("plan_hash"),
            "started_at": before["started_at"] if before else _now(),
            "tool": {"name": "poorwill", "version": __version__},
        }))  # fmt: skip

    def scan(self, deadline_s: float = STEP_DEADLINE_S, attempt: int = 1) -> dict[str, Any]:
        """Walk the workspace and plan; `planned` then holds the raw bytes of each part to pack."""
        allowed = {found["key"] for found in self.adopted}
        parent = None
        if self._parent is not None:
            parent = self._parent["manifest"]
            allowed.add(parent["key"])
        began = time.monotonic()
        self.scanned = self.session.request(
            "scan", deadline_s=deadline_s, attempt=attempt, answer=ReadGrants(self.store, allowed).answer,
            settings=self.order.settings(), parent=parent, adopt=self.adopted,
        )  # fmt: skip
        self.timings_ms["scan"] = _since(began)
        self._expect(self.scanned)
        self._write_pending(self._parent)
        return self.scanned

    def _expect(self, summary: dict[str, Any]) -> None:
        self.planned = {int(number): int(size) for number, size in summary["parts"].items()}
        for number, size in self.planned.items():
            self._parts.expect(number, size)

    def pack_part(self, number: int, deadline_s: float = STEP_DEADLINE_S, attempt: int = 1) -> PartDone:
        """Have one planned part coded and sent, then complete its upload. A repeated call starts the part over."""
        began = time.monotonic()
        result = self.session.request(
            "pack", deadline_s=deadline_s, attempt=attempt, answer=self._parts.answer, part=number
        )
        size = int(result["bytes"])
        if size:
            pieces = [Piece(int(p["number"]), str(p["tag"]), int(p["size"])) for p in result["pieces"]]
            key = self._parts.key(number)
            self.store.complete_upload(key, self._parts.upload_of(number), pieces, size)
            self._parts.done(number)
        seconds = time.monotonic() - began
        done = PartDone(
            number, size, int(result["chunks"]), int(result["raw_bytes"]), int(result["stored_bytes"]), seconds
        )
        self.done[number] = done
        return done

    def settle(self, deadline_s: float = STEP_DEADLINE_S, attempt: int = 1) -> dict[int, int]:
        """Scan again. Returns the parts (number: raw bytes) to pack for what changed; empty when settled."""
        began = time.monotonic()
        summary = self.session.request("settle", deadline_s=deadline_s, attempt=attempt)
        self.timings_ms["settle"] = self.timings_ms.get("settle", 0) + _since(began)
        self._expect(summary)
        self.scanned = {**self.scanned, **{k: summary[k] for k in ("entries", "files", "raw_bytes")}}
        return self.planned

    def write_metadata(self, deadline_s: float = STEP_DEADLINE_S) -> Document:
        """Check that every part is there, write the manifest, then the metadata: with that, the snapshot exists."""
        began = time.monotonic()
        data, told = self._fetch_manifest(deadline_s)
        key = keys.manifest(self.order.machine, self.order.snapshot_id)
        found = manifest.decode(data, key)
        if (found.machine, found.snapshot_id) != (self.order.machine, self.order.snapshot_id):
            raise Corrupt(f"the engine's manifest is of {found.machine}/{found.snapshot_id}")
        parts = self._checked_parts(found)
        self.store.put(key, data)
        self.timings_ms["metadata"] = _since(began)
        document = self._metadata(found, parts, told, {"key": key, "bytes": len(data), "blake3": told["blake3"]})
        self.store.put(keys.metadata(self.order.machine, self.order.snapshot_id), documents.seal(document))
        return document

    def _fetch_manifest(self, deadline_s: float) -> tuple[bytes, dict[str, Any]]:
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

        told = self.session.request("manifest", deadline_s=deadline_s, on_event=keep)
        data = b"".join(pages)
        if (len(data), blake3.blake3(data).hexdigest()) != (told["bytes"], told["blake3"]):
            raise EngineFailed("the engine's manifest did not arrive whole")
        return data, told

    def _checked_parts(self, found: Manifest) -> list[dict[str, Any]]:
        own = keys.parts_of(self.order.machine, self.order.snapshot_id)
        parts = []
        for row in range(len(found.parts)):
            key, size = found.parts.key(row), int(found.parts.size[row])
            there = self.store.head(key).size
            if there != size:
                raise Corrupt(f"{key}: {there} bytes in the store, expected {size}: the snapshot was not committed")
            parts.append({"key": key, "bytes": size, "borrowed": not key.startswith(own)})
        return parts

    def _metadata(
        self, found: Manifest, parts: list[dict[str, Any]], told: dict[str, Any], manifest_: dict[str, Any]
    ) -> Document:
        needs = sorted({need for codec in np.unique(found.chunks.codec).tolist() if (need := registry.needs(codec))})
        return {
            "format": f"poorwill-snapshot/{limits.FORMAT_VERSION}",
            "machine": self.order.machine,
            "snapshot_id": self.order.snapshot_id,
            "created_at": _now(),
            "workspace": self.order.workspace,
            "instance": self.order.instance,
            **self.order.labels(),
            "parent": self._parent["snapshot_id"] if self._parent else None,
            "tool": {"name": "poorwill", "version": __version__},
            "codec": self.order.codec,
            "portable": self.order.portable,
            "needs": needs,
            "manifest": manifest_,
            "parts": parts,
            "totals": totals(found, parts),
            "codecs": _bytes_by_codec(found),
            "left_out": told["left_out"],
            "left_out_count": told["left_out_count"],
            "facts": {k: v for k, v in self.session.facts.items() if not isinstance(v, float)},
            "timings_ms": dict(self.timings_ms),
        }

    def remove_pending(self) -> bool:
        """The last step of all: whoever continues this run must find the record until then. False if there was none."""
        try:
            self.store.head(self._pending_key)
        except NotFound:
            return False
        self.store.delete(self._pending_key)
        return True


def totals(found: Manifest, parts: list[dict[str, Any]]) -> dict[str, int]:
    """Sums for people: logical bytes of files, data bytes in them, what is stored for it, what was sent."""
    entries, chunks = found.entries, found.chunks
    own_rows = [row for row, part in enumerate(parts) if not part["borrowed"]]
    own = np.isin(chunks.part, own_rows)
    return {
        "entries": len(entries),
        "files": int((entries.kind == Kind.FILE).sum()),
        "chunks": len(chunks),
        "parts": len(own_rows),
        "raw_bytes": int(entries.size.sum(dtype=np.int64)),
        "data_bytes": int(found.segments.length.sum(dtype=np.int64)),
        "stored_bytes": int(chunks.stored.sum(dtype=np.int64)),
        "sent_bytes": sum(part["bytes"] for part in parts if not part["borrowed"]),
        "sent_raw_bytes": int(chunks.raw[own].sum(dtype=np.int64)),
    }


def _bytes_by_codec(found: Manifest) -> dict[str, dict[str, int]]:
    chunks = found.chunks
    return {
        registry.name(codec): {
            "chunks": int((chunks.codec == codec).sum()),
            "raw_bytes": int(chunks.raw[chunks.codec == codec].sum(dtype=np.int64)),
            "stored_bytes": int(chunks.stored[chunks.codec == codec].sum(dtype=np.int64)),
        }
        for codec in np.unique(chunks.codec).tolist()
    }


def _now() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
