"""The verification record of a snapshot: what was read back of it, and when."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from poorwill.snapshot import keys
from poorwill.snapshot.metadata import THIS_TOOL, ManifestReference, Metadata, Tool, misplaced
from poorwill.snapshot.record import Record, SnapshotRecord
from poorwill.store.base import Store

PROVING_MODES = ("stored", "full")
"""Those that read every part: on their word a machine may be destroyed."""
FAILED = "failed"
"""The mode of a record that says that the snapshot cannot be read back."""


@dataclass(frozen=True, slots=True)
class Verifier(Tool):
    """What wrote a verification record; engine: the host that read."""

    engine: str


@dataclass(frozen=True, slots=True)
class CheckedPart(Record):
    """A part that a snapshot needs: its key and its size. read: this verification read all of it."""

    key: str
    bytes: int
    read: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified(SnapshotRecord):
    """The kind `verified`. It is void for a snapshot with another manifest.

    failure: what of it was found damaged or lost, by its own verification, whose mode is then FAILED, or by that of
    another snapshot that uses it. Until all of it was read again, it proves nothing.
    """

    KIND: ClassVar[str] = "verified"
    PLACE = keys.verified

    instance: str
    manifest: ManifestReference
    mode: str
    verified_at_s: int  # POSIX
    by: Verifier
    bytes_read: int
    chunks_sampled: int
    parts: tuple[CheckedPart, ...]
    failure: str | None = None

    @classmethod
    def of(
        cls, metadata: Metadata, mode: str, read: Mapping[str, int], *, host: str = "", sampled: int = 0,
        failure: str | None = None,
    ) -> Verified:  # fmt: skip
        """That of a snapshot, now. read: the bytes of each part that was read; where there was a failure none counts.
        host: the engine's."""
        return cls(
            machine=metadata.machine, snapshot_id=metadata.snapshot_id, instance=metadata.instance,
            manifest=metadata.manifest, mode=mode, verified_at_s=int(time.time()),
            by=Verifier(THIS_TOOL.name, THIS_TOOL.version, host), bytes_read=sum(read.values()), chunks_sampled=sampled,
            parts=tuple(
                CheckedPart(part.key, part.bytes, failure is None and part.key in read) for part in metadata.parts
            ),
            failure=failure,
        )  # fmt: skip

    def fault(self, key: str) -> str | None:
        return SnapshotRecord.fault(self, key) or misplaced(
            self.owner, self.manifest.key, [part.key for part in self.parts]
        )

    @property
    def failed(self) -> bool:
        """Whether its own verification found that the snapshot cannot be woken."""
        return self.mode == FAILED

    @property
    def proves(self) -> bool:
        """Whether all that was read of the snapshot proves that it can be woken."""
        return self.mode in PROVING_MODES and self.failure is None

    @property
    def read_keys(self) -> frozenset[str]:
        """The keys of the parts that were read."""
        return frozenset(part.key for part in self.parts if part.read)

    def unread(self, metadata: Metadata) -> set[str]:
        """The keys of the snapshot's own parts that were not read."""
        return {part.key for part in metadata.parts if not part.borrowed} - self.read_keys


def read(store: Store, machine: str, snapshot_id: str) -> Verified:
    """The verification record of a snapshot. NotFound, Corrupt, Unsupported."""
    key = keys.verified(machine, snapshot_id)
    return Verified.unseal(store.get(key), key)
