"""Proving that a snapshot can be woken, and the record that says so."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from poorwill.control.records import manifests, prospects, verified
from poorwill.control.records.verified import CheckedPart, Verified, Verifier
from poorwill.control.snapshot.presigned_grants import ReadGrants
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.pool import Bench
from poorwill.engine.protocol.answers import PartVerified
from poorwill.engine.protocol.requests import OpenVerify, Verify
from poorwill.engine.transfer.decoding import check_stored, decode
from poorwill.errors import Corrupt, PoorwillError, Unsupported
from poorwill.snapshot import keys
from poorwill.snapshot.choices import VerifyMode
from poorwill.snapshot.metadata import THIS_TOOL, Metadata
from poorwill.snapshot.tables import Manifest
from poorwill.store.base import ObjectInfo, Store

SAMPLES = 8
BORROWED_AGE_S_MAX = 7 * 86400
"""A borrowed part that was last read longer ago is read again."""
PARTS_AT_ONCE = 8
WARNINGS_MAX = 20


@dataclass(slots=True)
class VerifyRun:
    """One verification: `open`, `verify_part` for every part of `parts`, `sample`, `record`.

    warnings: what will become of objects that can be read now, by the store's word; known once it is open.
    all_parts: also read borrowed parts whose last verification is recent. only: read these parts alone, by their keys.
    """

    store: Store
    session: EngineSession
    metadata: Metadata
    mode: VerifyMode = "stored"
    all_parts: bool = True
    only: frozenset[str] | None = None
    parts: dict[int, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    sampled: int = 0
    warnings: list[str] = field(default_factory=list)
    _manifest: Manifest | None = None
    _grants: ReadGrants = field(init=False)

    def __post_init__(self) -> None:
        self._grants = ReadGrants(self.store, self.metadata.readable_keys)

    def open(self) -> dict[int, int]:
        """Read and check the manifest, here and on the engine, and every part's size; choose the parts to read."""
        info = self.store.head(self.metadata.manifest.key)
        prospects.check_readable(info)
        self._manifest = manifests.read(self.store, self.metadata)
        rules = prospects.Rules.of(self.store)
        self.warnings = rules.deleting(self.metadata.readable_keys) + rules.archiving(self.metadata.readable_keys)
        self._note(info)
        recent = set() if self.all_parts or self.only is not None else self._recently_read()
        parts = self._manifest.parts
        for row in range(len(parts)):
            key, size = parts.key(row), int(parts.size[row])
            info = self.store.head(key)
            prospects.check_readable(info)
            self._note(info)
            there = info.size
            if there != size:
                raise Corrupt(
                    f"{key}: {there} bytes in the store, expected {size}", object=key, found=there, expected=size
                )
        if self.mode != "sample":
            self.session.request(OpenVerify(self.metadata.manifest, self.mode == "full"), answer=self._grants.answer)
            wanted = {parts.key(r) for r in range(len(parts))} - recent if self.only is None else self.only
            self.parts = {r: int(parts.size[r]) for r in range(len(parts)) if parts.key(r) in wanted}
        return self.parts

    def _note(self, info: ObjectInfo) -> None:
        said = prospects.archived(info) or prospects.deleted(info)
        if said is not None and len(self.warnings) < WARNINGS_MAX:
            self.warnings.append(said)

    def _recently_read(self) -> set[str]:
        recent: set[str] = set()
        borrowed = {part.key for part in self.metadata.parts if part.borrowed}
        for owner in {keys.owner_of(key) for key in borrowed}:
            if owner is None:
                continue
            try:
                record = verified.read(self.store, *owner)
            except PoorwillError:
                continue  # no usable record: its parts are read again
            if 0 <= time.time() - record.verified_at_s < BORROWED_AGE_S_MAX:
                recent |= record.read_keys
        return recent & borrowed

    def verify_part(self, row: int) -> PartVerified:
        """Have every stored byte of one part read back and hashed by the engine, through fresh grants."""
        result = self.session.request(Verify(row), answer=self._grants.answer)
        assert self._manifest is not None
        self.read[self._manifest.parts.key(row)] = result.bytes
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

    def run_all(self) -> Verified:
        """All steps at once, for callers without an orchestrator."""
        self.open()
        with ThreadPoolExecutor(PARTS_AT_ONCE) as threads:
            list(threads.map(self.verify_part, self.parts))
        self.sample()
        return self.record()

    def record(self) -> Verified:
        """Write what was read back; it names this snapshot, its instance and its manifest's hash."""
        record = Verified(
            machine=self.metadata.machine,
            snapshot_id=self.metadata.snapshot_id,
            instance=self.metadata.instance,
            manifest=self.metadata.manifest,
            mode=self.mode,
            verified_at_s=int(time.time()),
            by=Verifier(
                THIS_TOOL.name, THIS_TOOL.version, self.session.facts.host if self.session.facts is not None else ""
            ),
            bytes_read=sum(self.read.values()),
            chunks_sampled=self.sampled,
            parts=tuple(CheckedPart(part.key, part.bytes, part.key in self.read) for part in self.metadata.parts),
        )
        self.store.put(record.key, record.seal())
        return record
