"""What an engine answers to requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from poorwill.engine.protocol.asking import GPUS_MAX, PartBytes, PartNumber, PartRow, PlannedParts, Text
from poorwill.snapshot import limits
from poorwill.snapshot.fields import Length, Range
from poorwill.store.base import Piece


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A path below the workspace, and why it, or something of it, is left out."""

    path: bytes
    reason: str


LeftOutList = Annotated[tuple[LeftOut, ...], Length(limits.LEFT_OUT_MAX)]


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What an engine tells about its machine; what it does not tell is empty."""

    host: Text = ""
    cores: int = 0
    codec_threads: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    disk_free_bytes: int = 0
    kernel: Text = ""
    python: Text = ""
    gpu: Annotated[tuple[Text, ...], Length(GPUS_MAX)] = ()
    gpu_driver: Text = ""
    gpu_usable: bool = False
    gpu_unusable: Text = ""
    nvcomp: Text = ""
    engine: Text = ""
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How a command ended; a negative status is a signal."""

    status: Annotated[int, Range(-(1 << 31), 1 << 31)]
    output: str


@dataclass(frozen=True, slots=True)
class Planned:
    """What a scan found, and the parts to pack for it."""

    entries: int
    files: int
    raw_bytes: int
    pack_bytes: int
    parts: PlannedParts
    plan_hash: Annotated[str, Length(100)]


@dataclass(frozen=True, slots=True)
class PartSent:
    """A part whose bytes were sent; of 0 bytes if there is nothing to complete."""

    part: PartNumber
    bytes: PartBytes
    pieces: tuple[Piece, ...]
    chunks: int
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CodingTold:
    """Who coded, and why."""

    by: Text
    codec: Text
    reason: Text
    warning: Text = ""
    rates_mb_s: Annotated[Mapping[str, Annotated[int, Range(0, 1 << 53)]], Length(8)]
    versions: Annotated[Mapping[str, Text], Length(8)]
    fell_back: int


@dataclass(frozen=True, slots=True)
class ManifestSent:
    """What the pages of a manifest held, and who coded what it lists."""

    bytes: Annotated[int, Range(0, limits.MANIFEST_BYTES_MAX)]
    blake3: str
    coding: CodingTold | None


@dataclass(frozen=True, slots=True)
class SnapshotManifestSent(ManifestSent):
    """The same of a snapshot that was taken."""

    left_out: LeftOutList
    left_out_count: int


@dataclass(frozen=True, slots=True)
class Changes:
    """A few of the paths that differ."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartListed:
    """A part, by its row in the manifest's table."""

    row: PartRow
    key: str
    size: PartBytes


@dataclass(frozen=True, slots=True)
class RestoreOpened:
    """What a restore has before it, at most."""

    parts: tuple[PartListed, ...]
    raw_bytes: int
    fetch_bytes_max: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class PartRestored:
    """How many chunks of a part had to be put in place, and what was fetched for them."""

    part: PartRow
    chunks: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A restore that is whole: entries by kind, and where the bytes came from."""

    restored: Mapping[str, int]
    raw_bytes: int
    kept_bytes: int
    cached_bytes: int
    fetched_bytes: int
    left_out: LeftOutList
    left_out_count: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartsListed:
    """What can be verified."""

    parts: tuple[PartListed, ...]


@dataclass(frozen=True, slots=True)
class PartVerified:
    """A part that was read, and is as the manifest says."""

    part: PartRow
    bytes: PartBytes
    chunks: int


@dataclass(frozen=True, slots=True)
class ConvertPlanned:
    """The parts that a conversion writes, and what is to be read, and coded anew, for them."""

    parts: PlannedParts
    chunks: int
    stored_bytes: int
    coded_chunks: int
    coded_raw_bytes: int
