"""Proving that a snapshot can be woken, and the record that says so."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from poorwill.control.records import catalog, manifests, prospects, verified
from poorwill.control.records.verified import FAILED, Verified
from poorwill.control.snapshot import lending
from poorwill.control.snapshot.presigned_grants import ReadGrants
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.pool import Bench
from poorwill.engine.protocol.answers import PartVerified
from poorwill.engine.protocol.requests import OpenVerify, Verify
from poorwill.engine.transfer.decoding import check_stored, decode
from poorwill.errors import Corrupt, NotFound, PoorwillError, Refused, Unsupported
from poorwill.snapshot import keys
from poorwill.snapshot.choices import VerifyMode
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.tables import Manifest
from poorwill.store.base import Check, ObjectInfo, Store

log = logging.getLogger(__name__)
SAMPLES = 8
BORROWED_AGE_S_MAX = 7 * 86400
"""A borrowed part that was last read longer ago is read again."""
PARTS_AT_ONCE = 8
WARNINGS_MAX = 20
FAILURE_CHARS_MAX = 400


@dataclass(slots=True)
class VerifyRun:
    """One verification: `open`, `verify_part` for every part of `parts`, `sample`, `record`.

    Each of the first three writes a record of mode `failed` if it finds that an object of the snapshot is damaged or
    lost (Corrupt, NotFound), in place of any record there is, and withdraws the proof of the snapshot that it belongs
    to. An error that may pass leaves both as they are.

    warnings: what will become of objects that can be read now, by the store's word; known once it is open.
    all_parts: also read borrowed parts whose last verification is recent. only: read these parts alone, by their keys.
    fence: raises for a run that was overtaken, which then writes no record.
    """

    store: Store
    session: EngineSession
    metadata: Metadata
    mode: VerifyMode = "stored"
    all_parts: bool = True
    only: frozenset[str] | None = None
    fence: Check = lambda: None
    parts: dict[int, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    sampled: int = 0
    warnings: list[str] = field(default_factory=list)
    _manifest: Manifest | None = None
    _before: Verified | None = None
    _grants: ReadGrants = field(init=False)

    def __post_init__(self) -> None:
        self._grants = ReadGrants(self.store, self.metadata.readable_keys)

    def open(self) -> dict[int, int]:
        """Read and check the manifest, here and on the engine, and every part's size; choose the parts to read."""
        with self._failing(self.metadata.manifest.key):
            info = self.store.head(self.metadata.manifest.key)
            prospects.check_readable(info)
            self._manifest = manifests.read(self.store, self.metadata)
        rules = prospects.Rules.of(self.store)
        self.warnings = rules.deleting(self.metadata.readable_keys) + rules.archiving(self.metadata.readable_keys)
        self._note(info)
        self._before = self._doubted_before()
        skips = not self.all_parts and self.only is None and self._before is None
        recent = self._recently_read() if skips else set()
        parts = self._manifest.parts
        for row in range(len(parts)):
            with self._failing(parts.key(row)):
                self._look_at(parts.key(row), int(parts.size[row]))
        if self.mode != "sample" or self._before is not None:
            self.session.request(OpenVerify(self.metadata.manifest, self.mode == "full"), answer=self._grants.answer)
            wanted = {parts.key(r) for r in range(len(parts))} - recent if self.only is None else self.only
            self.parts = {r: int(parts.size[r]) for r in range(len(parts)) if parts.key(r) in wanted}
        return self.parts

    def _look_at(self, key: str, size: int) -> None:
        info = self.store.head(key)
        prospects.check_readable(info)
        self._note(info)
        if info.size != size:
            raise Corrupt(
                f"{key}: {info.size} bytes in the store, expected {size}", object=key, found=info.size, expected=size
            )

    def _note(self, info: ObjectInfo) -> None:
        said = prospects.archived(info) or prospects.deleted(info)
        if said is not None and len(self.warnings) < WARNINGS_MAX:
            self.warnings.append(said)

    def _doubted_before(self) -> Verified | None:
        try:
            record = verified.read(self.store, *self.metadata.owner)
        except catalog.UNREADABLE:
            return None
        return record if record.failure is not None and record.manifest == self.metadata.manifest else None

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
            if record.failure is None and 0 <= time.time() - record.verified_at_s < BORROWED_AGE_S_MAX:
                recent |= record.read_keys
        return recent & borrowed

    def verify_part(self, row: int) -> PartVerified:
        """Have every stored byte of one part read back and hashed by the engine, through fresh grants."""
        assert self._manifest is not None
        key = self._manifest.parts.key(row)
        with self._failing(key):
            result = self.session.request(Verify(row), answer=self._grants.answer)
        self.read[key] = result.bytes
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
            with self._failing(key):
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
        """Write what was read back; it names this snapshot, its instance and its manifest's hash.

        What there was a doubt of goes on to be doubted until all of it is read at once. Refused, and nothing is
        written, if the snapshot was removed meanwhile.
        """
        record = self._record(self.mode)
        if self._before is not None and {part.key for part in self.metadata.parts} - self.read.keys():
            record = self._record(self._before.mode, self._before.failure)
        self.store.put_fenced(record.key, record.seal(), self._check)
        return record

    def _check(self) -> None:
        self.fence()
        if not catalog.exists(self.store, self.metadata.key):
            raise Refused(
                f"snapshot {self.metadata.snapshot_id} was removed while it was verified: nothing was noted of it"
            )

    @contextmanager
    def _failing(self, key: str) -> Iterator[None]:
        """Write down that an object of the snapshot is damaged or lost, if that is what an error inside says."""
        try:
            yield
        except (Corrupt, NotFound) as error:
            if self.session.alive:  # else it is the engine that talks nonsense
                self._note_failure(key, error.message[:FAILURE_CHARS_MAX])
            raise

    def _note_failure(self, key: str, failure: str) -> None:
        record = self._record(FAILED, failure)
        try:
            if catalog.exists(self.store, self.metadata.key):  # else it was removed meanwhile
                self.store.put_fenced(record.key, record.seal(), self._check)
            if keys.owner_of(key) != record.owner:
                lending.withdraw(self.store, key, failure)
        except PoorwillError as error:
            log.warning("that %s is damaged could not be written down: %s", key, error.message)

    def _record(self, mode: str, failure: str | None = None) -> Verified:
        host = self.session.facts.host if self.session.facts is not None else ""
        return Verified.of(self.metadata, mode, self.read, host=host, sampled=self.sampled, failure=failure)
