"""A stand-in for an engine: its workspace is a set of pieces of 16 bytes, each of which makes a part of its own.

It borrows from the parent's manifest, adopts parts of a run that was cut off, and writes parts and a true manifest, as
the real one does, in microseconds. What it reads and writes goes through the grants of the control side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import blake3

from poorwill.engine.protocol import requests
from poorwill.engine.protocol.answers import MachineFacts, PartSent, Planned, SnapshotManifestSent
from poorwill.engine.protocol.asking import Question, Request
from poorwill.engine.protocol.questions import Read, Upload
from poorwill.errors import NotFound, PoorwillError
from poorwill.snapshot import manifest
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.tables import Chunks, Entries, Kind, Manifest, Parts, Segments, Targets, XattrSets
from poorwill.store.base import Piece, Store
from tests.support.memory_store import MemoryStore
from tests.support.small_manifest import table

PIECE_BYTES = 16
Answer = Callable[[Question[Any]], Any]


def content(number: int) -> bytes:
    return f"piece {number:>10}".encode()


class SmallEngine:
    """What SnapshotRun asks of an engine's session."""

    facts: MachineFacts | None = None

    def __init__(self, store: MemoryStore, workspace: Iterable[int]) -> None:
        self._store = store
        self._wanted = [content(number) for number in sorted(set(workspace))]
        self._known: dict[bytes, str] = {}  # piece -> key of the part that holds it

    def request(
        self,
        request: Request[Any],
        *,
        attempt: int = 1,
        answer: Answer = lambda question: None,
        on_page: Callable[[bytes], None] = lambda page: None,
    ) -> Any:
        if isinstance(request, requests.Hold):
            return {}
        if isinstance(request, requests.Scan):
            return self._scan(answer, request)
        if isinstance(request, requests.Pack):
            return self._pack(answer, request.part)
        if isinstance(request, requests.Settle):
            return self._summary({})
        assert isinstance(request, requests.Manifest)
        data = b"".join(manifest.encode(self._manifest()))
        on_page(data)
        return SnapshotManifestSent(len(data), blake3.blake3(data).hexdigest(), None, (), 0)

    def _scan(self, answer: Answer, scan: requests.Scan) -> Planned:
        self._settings, self._known = scan.settings, {}
        if scan.parent is not None:
            base = manifest.decode(self._read(answer, scan.parent.key), scan.parent.key)
            for row in range(len(base.chunks)):
                digest, key = bytes(base.chunks.raw_hash[row]), base.parts.key(int(base.chunks.part[row]))
                self._known.update((piece, key) for piece in self._wanted if blake3.blake3(piece).digest() == digest)
        self._known.update((self._read(answer, part.key), part.key) for part in scan.adopt)
        used = {part.number for part in scan.adopt}
        free = iter(number for number in range(64) if number not in used)
        self._planned = {next(free): piece for piece in self._wanted if piece not in self._known}
        return self._summary(dict.fromkeys(self._planned, PIECE_BYTES))

    def _pack(self, answer: Answer, number: int) -> PartSent:
        self._store.write_piece(answer(Upload(number)).path, self._planned[number])
        own = f"parts/{self._settings.machine}/{self._settings.snapshot_id}/{number:02d}"
        self._known[self._planned[number]] = own
        return PartSent(number, PIECE_BYTES, (Piece(1, "t", PIECE_BYTES),), 1, PIECE_BYTES, PIECE_BYTES)

    def _summary(self, parts: dict[int, int]) -> Planned:
        count = len(self._wanted)
        return Planned(count + 1, count, count * PIECE_BYTES, sum(parts.values()), parts, "blake3:0")

    def _read(self, answer: Answer, key: str) -> bytes:
        return self._store.get(answer(Read(key)).path)

    def _manifest(self) -> Manifest:
        parts, chunks, segments = [], [], []
        entries: list[dict[str, Any]] = [{"kind": Kind.DIRECTORY, "mode": 0o755}]
        for row, piece in enumerate(self._wanted):
            _, machine, snapshot_id, number = self._known[piece].split("/")
            named = {"machine": machine.encode(), "snapshot_id": snapshot_id.encode()}
            parts.append({**named, "number": int(number), "size": PIECE_BYTES})
            digest = blake3.blake3(piece).digest()
            sizes = {"stored": PIECE_BYTES, "raw": PIECE_BYTES}
            chunks.append({"part": row, **sizes, "stored_hash": digest, "raw_hash": digest})
            segments.append({"chunk": row, "length": PIECE_BYTES})
            file = {"kind": Kind.FILE, "mode": 0o644, "size": PIECE_BYTES, "segments": 1, "name": b"%04d" % row}
            entries.append(file)
        tables = [
            (Parts, parts),
            (Chunks, chunks),
            (Entries, entries),
            (Segments, segments),
            (Targets, []),
            (XattrSets, []),
        ]
        found = [table(kind, rows) for kind, rows in tables]  # type: ignore[type-var]
        return Manifest(self._settings.machine, self._settings.snapshot_id, 0, *found)  # type: ignore[arg-type]


def missing_pieces(store: Store, metadata: Metadata) -> list[str]:
    """What a snapshot needs and the store does not hold as it was written: its manifest, or chunks in parts."""
    named = metadata.manifest
    try:
        data = store.get(named.key)
    except NotFound as error:
        return [error.message]
    if blake3.blake3(data).hexdigest() != named.blake3:
        return [f"{named.key} holds something else"]
    missing = []
    for key, offset, stored, digest in _chunks(data):
        try:
            if blake3.blake3(store.get_range(key, offset, stored)).digest() != digest:
                missing.append(f"{key} holds something else")
        except PoorwillError as error:
            missing.append(error.message)
    return missing


@lru_cache(maxsize=10_000)
def _chunks(data: bytes) -> tuple[tuple[str, int, int, bytes], ...]:
    found = manifest.decode(data, "manifest")
    chunks = found.chunks
    return tuple(
        (
            found.parts.key(int(chunks.part[r])),
            int(chunks.offset[r]),
            int(chunks.stored[r]),
            bytes(chunks.stored_hash[r]),
        )
        for r in range(len(chunks))
    )
