"""The metadata of a snapshot, its commit record. docs/snapshot-format.md says what fields mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from poorwill import __version__
from poorwill.snapshot import ids, keys, shrinkage
from poorwill.snapshot.fields import SPARSE
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.record import Record, SnapshotRecord
from poorwill.snapshot.shrinkage import Extent
from poorwill.snapshot.surroundings import Surroundings


@dataclass(frozen=True, slots=True)
class Tool(Record):
    """What wrote a document."""

    name: str
    version: str


THIS_TOOL = Tool("poorwill", __version__)


@dataclass(frozen=True, slots=True)
class ManifestReference(Record):
    """A manifest object: its key, its size, and the BLAKE3 of its bytes in hexadecimal digits."""

    key: str
    bytes: int
    blake3: str


@dataclass(frozen=True, slots=True)
class UsedPart(Record):
    """A part that a snapshot needs: its key and its size. borrowed: it belongs to another snapshot."""

    key: str
    bytes: int
    borrowed: bool


@dataclass(frozen=True, slots=True)
class Totals(Record):
    """Sums for people: bytes of files, data bytes in them, what is stored for it, what was sent."""

    entries: int
    files: int
    chunks: int
    parts: int
    raw_bytes: int
    data_bytes: int
    stored_bytes: int
    sent_bytes: int
    sent_raw_bytes: int


@dataclass(frozen=True, slots=True)
class CodecTotals(Record):
    """What one codec coded of a snapshot."""

    chunks: int
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding(Record):
    """Who coded what is new in a snapshot, and why, for people."""

    by: str
    codec: str
    reason: str
    warning: str | None = None
    rates_mb_s: Mapping[str, Any]
    versions: Mapping[str, Any]
    fell_back: int


@dataclass(frozen=True, slots=True)
class LeftOut(Record):
    """A path that is not in a snapshot, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata(SnapshotRecord):
    """The kind `snapshot`: with it, a snapshot exists."""

    KIND: ClassVar[str] = "snapshot"
    PLACE = keys.metadata

    created_at: str
    committed_at_ms: int | None = None
    workspace: str
    instance: str
    name: str | None = None
    tags: tuple[str, ...] = field(default=(), metadata=SPARSE)
    parent: str | None
    converted_from: str | None = None
    tool: Tool
    codec: str
    portable: bool
    needs: tuple[str, ...]
    manifest: ManifestReference
    parts: tuple[UsedPart, ...]
    totals: Totals
    codecs: Mapping[str, CodecTotals]
    coding: Coding | None = None
    left_out: tuple[LeftOut, ...]
    left_out_count: int
    allow_shrink: bool = field(default=False, metadata=SPARSE)
    surroundings: Surroundings | None = None
    facts: Mapping[str, Any]
    timings_ms: Mapping[str, Any]

    def fault(self, key: str) -> str | None:
        return SnapshotRecord.fault(self, key) or misplaced(
            self.owner, self.manifest.key, [part.key for part in self.parts]
        )

    @property
    def ranked_ms(self) -> int:
        """By which the snapshots of a machine are ordered, before their ids."""
        return ids.ranked_ms(self.snapshot_id, self.committed_at_ms)

    @property
    def extent(self) -> Extent:
        """What it is compared with others by."""
        return Extent(
            self.snapshot_id,
            shrinkage.directory_of(self.workspace, self.instance),
            self.totals.files,
            self.totals.data_bytes,
            self.allow_shrink,
        )

    @property
    def readable_keys(self) -> frozenset[str]:
        """The keys of all objects that whoever reads the snapshot must read."""
        return frozenset({self.manifest.key, *(part.key for part in self.parts)})

    @property
    def lenders(self) -> list[str]:
        """The ids of all snapshots whose parts it uses, its own among them if it has any, sorted."""
        return sorted({part.key.split("/")[2] for part in self.parts})


def misplaced(owner: Owner, manifest_key: str, part_keys: Iterable[str]) -> str | None:
    """What a record of a snapshot names as its manifest or a part although it cannot be, for a message, or None."""
    expected = keys.manifest(*owner)
    if manifest_key != expected:
        return f"its manifest is {manifest_key!r}, expected {expected!r}"
    strange = next((key for key in part_keys if not keys.is_part(key)), None)
    return None if strange is None else f"{strange!r} is not the key of a part"
