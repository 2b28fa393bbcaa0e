"""Proving that a snapshot can be woken, and the record that says so."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import blake3

from poorwill import __version__
from poorwill.control.snapshot.grants import ReadGrants
from poorwill.control.snapshot.restore_run import readable
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.pool import Bench
from poorwill.engine.transfer.decoding import check_stored, decode
from poorwill.errors import Corrupt, PoorwillError, Unsupported
from poorwill.snapshot import documents, keys, limits, manifest, versions
from poorwill.snapshot.documents import Document
from poorwill.snapshot.order import VerifyMode
from poorwill.snapshot.tables import Manifest
from poorwill.store.base import Store

PROVING_MODES = ("stored", "full")
"""Those that read every part: on their word a machine may be destroyed."""
SAMPLES = 8
BORROWED_AGE_S_MAX = 7 * 86400
"""A borrowed part that was last read longer ago is read again."""
PARTS_AT_ONCE = 8


@dataclass(slots=True)
class VerifyRun:
    """One verification: `open`, `verify_part` for every part of `parts`, `sample`, `record`.

    all_parts: also read borrowed parts whose last verification is recent. only: read these parts alone, by their keys.
    """

    store: Store
    session: EngineSession
    metadata: Document
    mode: VerifyMode = "stored"
    all_parts: bool = True
    only: frozenset[str] | None = None
    parts: dict[int, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    sampled: int = 0
    _manifest: Manifest | None = None

    def open(self) -> dict[int, int]:
        """Read and check the manifest, here and on the engine, and every part's size; choose the parts to read."""
        self._manifest = read_manifest(self.store, self.metadata)
        recent = set() if self.all_parts or self.only is not None else self._recently_read()
        parts = self._manifest.parts
        for row in range(len(parts)):
            key, size = parts.key(row), int(parts.size[row])
            there = self.store.head(key).size
            if there != size:
                raise Corrupt(
                    f"{key}: {there} bytes in the store, expected {size}", object=key, found=there, expected=size
                )
        if self.mode != "sample":
            named, full = self.metadata["manifest"], self.mode == "full"
            self.session.request("open_verify", answer=self._answer, manifest=named, full=full)
            wanted = {parts.key(r) for r in range(len(parts))} - recent if self.only is None else self.only
            self.parts = {r: int(parts.size[r]) for r in range(len(parts)) if parts.key(r) in wanted}
        return self.parts

    def _answer(self, question: str, facts: dict[str, Any]) -> dict[str, Any]:
        return ReadGrants(self.store, readable(self.metadata)).answer(question, facts)

    def _recently_read(self) -> set[str]:
        recent: set[str] = set()
        borrowed = {keys.owner_of(p["key"]) for p in self.metadata["parts"] if p["borrowed"]}
        for owner in borrowed:
            if owner is None:
                continue
            try:
                record = read_record(self.store, *owner)
            except PoorwillError:
                continue  # no usable record: its parts are read again
            if 0 <= time.time() - int(record["verified_at_s"]) < BORROWED_AGE_S_MAX:
                recent |= {part["key"] for part in record["parts"] if part["read"]}
        return recent & {p["key"] for p in self.metadata["parts"] if p["borrowed"]}

    def verify_part(self, row: int) -> dict[str, Any]:
        """Have every stored byte of one part read back and hashed by the engine, through fresh grants."""
        result = self.session.request("verify", answer=self._answer, part_row=row)
        assert self._manifest is not None
        self.read[self._manifest.parts.key(row)] = int(result["bytes"])
        return result

    def sample(self, choose: Callable[[int, int], list[int]] | None = None) -> int:
        """Read a few random chunks from here, and decode them where a codec is installed. Returns how many.

        The engine's machine is not trusted: this is what it cannot fake.
        """
        assert self._manifest is not None
        chunks, parts, bench = self._manifest.chunks, self._manifest.parts, Bench()
        count = min(SAMPLES, len(chunks))
        rows = random.sample(range(len(chunks)), count) if choose is None else choose(len(chunks), count)
        for row in rows:
            key = parts.key(int(chunks.part[row]))
            stored = memoryview(self.store.get_range(key, int(chunks.offset[row]), int(chunks.stored[row])))
            try:
                decode(bench, chunks, row, stored, key)
            except Unsupported:
                check_stored(chunks, row, stored, key)
        self.sampled = count
        return count

    def run_all(self) -> Document:
        """All steps at once, for callers without an orchestrator."""
        self.open()
        with ThreadPoolExecutor(PARTS_AT_ONCE) as threads:
            list(threads.map(self.verify_part, self.parts))
        self.sample()
        return self.record()

    def record(self) -> Document:
        """Write what was read back; it names this snapshot, its instance and its manifest's hash."""
        document = {
            "format": versions.written_format("verified"),
            "machine": self.metadata["machine"],
            "snapshot_id": self.metadata["snapshot_id"],
            "instance": self.metadata["instance"],
            "manifest": self.metadata["manifest"],
            "mode": self.mode,
            "verified_at_s": int(time.time()),
            "by": {"name": "poorwill", "version": __version__, "engine": self.session.facts.get("host", "")},
            "bytes_read": sum(self.read.values()),
            "chunks_sampled": self.sampled,
            "parts": [
                {"key": part["key"], "bytes": part["bytes"], "read": part["key"] in self.read}
                for part in self.metadata["parts"]
            ],
        }
        key = keys.verified(self.metadata["machine"], self.metadata["snapshot_id"])
        self.store.put(key, documents.seal(document))
        return document


def read_manifest(store: Store, metadata: Document) -> Manifest:
    """A snapshot's manifest, checked against the hash in its metadata. Corrupt, NotFound."""
    named = metadata["manifest"]
    data = store.get(named["key"], bytes_max=limits.MANIFEST_BYTES_MAX)
    found = blake3.blake3(data).hexdigest()
    if found != named["blake3"]:
        raise Corrupt(
            f"{named['key']}: hashes to {found}, expected {named['blake3']}",
            object=named["key"], found=found, expected=named["blake3"],
        )  # fmt: skip
    return manifest.decode(data, named["key"])


def read_record(store: Store, machine: str, snapshot_id: str) -> Document:
    """The verification record of a snapshot. NotFound, Corrupt."""
    key = keys.verified(machine, snapshot_id)
    return documents.unseal(store.get(key), "verified", key)
