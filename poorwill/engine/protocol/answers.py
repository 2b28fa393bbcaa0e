"""What an engine answers to requests.

They are NamedTuples: the classes are made in an eighth of the time of dataclasses, and every start makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from poorwill.engine.protocol.asking import GPUS_MAX, PartBytes, PartNumber, PartRow, PlannedParts, Text
from poorwill.snapshot import limits
from poorwill.snapshot.fields import Length, Range
from poorwill.snapshot.surroundings import Surroundings
from poorwill.store.base import Piece


class LeftOut(NamedTuple):
    """A path below the workspace, and why it, or something of it, is left out."""

    path: bytes
    reason: str


WRITERS_TOLD = 20
BLIND_TOLD = 20
LeftOutList = Annotated[tuple[LeftOut, ...], Length(limits.LEFT_OUT_MAX)]


class MachineFacts(NamedTuple):
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


class CommandEnd(NamedTuple):
    """How a command ended; a negative status is a signal."""

    status: Annotated[int, Range(-(1 << 31), 1 << 31)]
    output: str


class Planned(NamedTuple):
    """What a scan found, and the parts to pack for it."""

    entries: int
    files: int
    raw_bytes: int
    pack_bytes: int
    parts: PlannedParts
    plan_hash: Annotated[str, Length(100)]
    warnings: tuple[str, ...] = ()
    surroundings: Surroundings | None = None


class PartSent(NamedTuple):
    """A part whose bytes were sent; of 0 bytes if there is nothing to complete."""

    part: PartNumber
    bytes: PartBytes
    pieces: tuple[Piece, ...]
    chunks: int
    raw_bytes: int
    stored_bytes: int


class CodingTold(NamedTuple):
    """Who coded, and why."""

    by: Text
    codec: Text
    reason: Text
    rates_mb_s: Annotated[Mapping[str, Annotated[int, Range(0, 1 << 53)]], Length(8)]
    versions: Annotated[Mapping[str, Text], Length(8)]
    fell_back: int
    warning: Text = ""


class ManifestSent(NamedTuple):
    """What the pages of a manifest held, and who coded what it lists."""

    bytes: Annotated[int, Range(0, limits.MANIFEST_BYTES_MAX)]
    blake3: str
    coding: CodingTold | None


class SnapshotManifestSent(NamedTuple):
    """The same of a snapshot that was taken."""

    bytes: Annotated[int, Range(0, limits.MANIFEST_BYTES_MAX)]
    blake3: str
    coding: CodingTold | None
    left_out: LeftOutList
    left_out_count: int


class Writer(NamedTuple):
    """A file of the workspace, at `path` below it, that a process has open for writing, or mapped shared and writable.
    command: the beginning of its command line."""

    pid: int
    name: Text
    command: Text
    path: str
    mapped: bool


class Blind(NamedTuple):
    """A file system mounted at `path` whose times do not tell of all writes. shared: other hosts may write there."""

    path: str
    why: Text
    shared: bool


class Changes(NamedTuple):
    """A few of the paths that differ; and who may write there still: a few of the writers and how many there are, how
    many processes could not be looked into, and where times tell nothing; and what lies around the workspace."""

    paths: tuple[str, ...]
    writers: Annotated[tuple[Writer, ...], Length(WRITERS_TOLD)] = ()
    writers_count: int = 0
    hidden: int = 0
    blind: Annotated[tuple[Blind, ...], Length(BLIND_TOLD)] = ()
    surroundings: Surroundings | None = None


class PartListed(NamedTuple):
    """A part, by its row in the manifest's table."""

    row: PartRow
    key: str
    size: PartBytes


class RestoreOpened(NamedTuple):
    """What a restore has before it, at most. already_done: the same restore had ended there, so there is nothing."""

    parts: tuple[PartListed, ...]
    raw_bytes: int
    fetch_bytes_max: int
    resumed: bool
    already_done: bool = False


class PartRestored(NamedTuple):
    """How many chunks of a part had to be put in place, and what was fetched for them."""

    part: PartRow
    chunks: int
    stored_bytes: int


class Restored(NamedTuple):
    """A restore that is whole: entries by kind, and where the bytes came from."""

    restored: Mapping[str, int]
    raw_bytes: int
    kept_bytes: int
    cached_bytes: int
    fetched_bytes: int
    left_out: LeftOutList
    left_out_count: int
    warnings: tuple[str, ...]
    already_done: bool = False


class PartsListed(NamedTuple):
    """What can be verified."""

    parts: tuple[PartListed, ...]


class PartVerified(NamedTuple):
    """A part that was read, and is as the manifest says."""

    part: PartRow
    bytes: PartBytes
    chunks: int


class ConvertPlanned(NamedTuple):
    """The parts that a conversion writes, and what is to be read, and coded anew, for them."""

    parts: PlannedParts
    chunks: int
    stored_bytes: int
    coded_chunks: int
    coded_raw_bytes: int
