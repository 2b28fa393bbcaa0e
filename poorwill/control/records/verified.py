"""The verification record of a snapshot: what was read back of it, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poorwill.snapshot import keys
from poorwill.snapshot.metadata import ManifestReference, Tool, misplaced
from poorwill.snapshot.record import Record, SnapshotRecord
from poorwill.store.base import Store

PROVING_MODES = ("stored", "full")
"""Those that read every part: on their word a machine may be destroyed."""


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
    """The kind `verified`. It is void for a snapshot with another manifest."""

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

    def fault(self, key: str) -> str | None:
        return SnapshotRecord.fault(self, key) or misplaced(
            self.owner, self.manifest.key, [part.key for part in self.parts]
        )

    @property
    def proves(self) -> bool:
        """Whether all that was read of the snapshot proves that it can be woken."""
        return self.mode in PROVING_MODES

    @property
    def read_keys(self) -> frozenset[str]:
        """The keys of the parts that were read."""
        return frozenset(part.key for part in self.parts if part.read)


def read(store: Store, machine: str, snapshot_id: str) -> Verified:
    """The verification record of a snapshot. NotFound, Corrupt, Unsupported."""
    key = keys.verified(machine, snapshot_id)
    return Verified.unseal(store.get(key), key)
