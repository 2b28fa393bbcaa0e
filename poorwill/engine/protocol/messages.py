"""What can be asked of an engine, what it answers, and what it asks meanwhile: docs/engine-protocol.md, as records.

Whoever gets one reads it with `poorwill.snapshot.fields`, every field checked: neither end trusts the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, Protocol, TypeVar, get_args

from poorwill.errors import Corrupt, Refused, UsageError
from poorwill.snapshot import fields, limits
from poorwill.snapshot.fields import INLINE, Length, Range
from poorwill.snapshot.metadata import ManifestReference
from poorwill.snapshot.order import PackSettings, RestoreOrder
from poorwill.store.base import Grant, Piece

A = TypeVar("A")
PIECES_ASKED_MAX = 64
GPUS_MAX = 64
TEXT_MAX = 500
Text = Annotated[str, Length(TEXT_MAX)]
PartNumber = Annotated[int, Range(0, limits.PART_NUMBER_MAX)]
PartRow = Annotated[int, Range(0, limits.PARTS_MAX)]
PartBytes = Annotated[int, Range(0, limits.PART_BYTES_MAX)]
PlannedParts = Annotated[Mapping[int, PartBytes], Length(limits.PART_NUMBER_MAX + 1)]
"""Raw bytes by part number."""


class Request(Generic[A]):
    """What an engine is asked for by the name `op`; A is the class of its answer."""

    __slots__ = ()
    op: ClassVar[str]


class Question(Generic[A]):
    """What an engine asks, by its `name`, while it works on a request; A is the class of the answer."""

    __slots__ = ()
    name: ClassVar[str]


class Ask(Protocol):
    """Asks the control side."""

    def __call__(self, question: Question[A]) -> A:
        """The answer, or the error that it is answered with."""
        ...


def answer_to(asked: type[Request[A]] | type[Question[A]]) -> type[A]:
    """The class of the answer."""
    (base,) = asked.__orig_bases__  # type: ignore[union-attr]
    kind: type[A] = get_args(base)[0]
    return kind


# Answers


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


# Requests


@dataclass(frozen=True, slots=True)
class Hello(Request[MachineFacts]):
    """The first request of a conversation."""

    op = "hello"
    workspace: str = "/"


@dataclass(frozen=True, slots=True)
class Activity(Request[dict[str, Any]]):
    """What goes on there. Whoever judges the answer reads it field by field: a figure that is wrong is not known."""

    op = "activity"
    window_s: float


@dataclass(frozen=True, slots=True)
class Command(Request[CommandEnd]):
    """Run a shell command."""

    op = "command"
    command: str
    workspace: str


@dataclass(frozen=True, slots=True)
class FoundPart:
    """A finished part that a killed run left behind."""

    key: str
    number: PartNumber
    size: PartBytes


@dataclass(frozen=True, slots=True)
class Scan(Request[Planned]):
    """Walk the workspace, and plan its parts."""

    op = "scan"
    settings: PackSettings
    parent: ManifestReference | None
    adopt: tuple[FoundPart, ...]


@dataclass(frozen=True, slots=True)
class Pack(Request[PartSent]):
    """Code and send a part that was planned last."""

    op = "pack"
    part: PartNumber


@dataclass(frozen=True, slots=True)
class Settle(Request[Planned]):
    """Scan again, and plan what changed."""

    op = "settle"


@dataclass(frozen=True, slots=True)
class SendManifest(Request[SnapshotManifestSent]):
    """Send the manifest of the snapshot in pages."""

    op = "manifest"


@dataclass(frozen=True, slots=True)
class Changed(Request[Changes]):
    """Whether the workspace differs from a snapshot, but for the paths that it left out."""

    op = "changed"
    settings: PackSettings
    manifest: ManifestReference
    left_out: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class OpenRestore(Request[RestoreOpened]):
    """Begin, or continue, a restore."""

    op = "open_restore"
    manifest: ManifestReference
    order: RestoreOrder = field(metadata=INLINE)


@dataclass(frozen=True, slots=True)
class Restore(Request[PartRestored]):
    """Restore what is missing of one part."""

    op = "restore"
    part_row: PartRow


@dataclass(frozen=True, slots=True)
class FinishRestore(Request[Restored]):
    """Links, attributes, times, and the count of everything."""

    op = "finish_restore"


@dataclass(frozen=True, slots=True)
class OpenVerify(Request[PartsListed]):
    """Begin a verification; full: chunks are decoded, too."""

    op = "open_verify"
    manifest: ManifestReference
    full: bool = False


@dataclass(frozen=True, slots=True)
class Verify(Request[PartVerified]):
    """Read one part back."""

    op = "verify"
    part_row: PartRow


@dataclass(frozen=True, slots=True)
class OpenConvert(Request[ConvertPlanned]):
    """Begin a conversion of the snapshot of that manifest into a new one."""

    op = "open_convert"
    manifest: ManifestReference
    snapshot_id: str
    adopt: tuple[FoundPart, ...]


@dataclass(frozen=True, slots=True)
class Convert(Request[PartSent]):
    """Write a part that was planned."""

    op = "convert"
    part: PartNumber


@dataclass(frozen=True, slots=True)
class FinishConvert(Request[ManifestSent]):
    """Send the manifest of the new snapshot in pages."""

    op = "finish_convert"


REQUESTS: dict[str, type[Request[Any]]] = {
    kind.op: kind
    for kind in (
        Hello, Activity, Command, Scan, Pack, Settle, SendManifest, Changed, OpenRestore, Restore, FinishRestore,
        OpenVerify, Verify, OpenConvert, Convert, FinishConvert,
    )
}  # fmt: skip


# Questions, and what is answered to them


@dataclass(frozen=True, slots=True)
class UploadGrant:
    """An upload that was begun: by pieces of that size, or as a file under that path."""

    piece_bytes: Annotated[int, Range(1, limits.PART_BYTES_MAX)] | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if (self.piece_bytes is None) == (self.path is None):
            raise Corrupt("an upload is granted by the size of its pieces, or by a path")


@dataclass(frozen=True, slots=True)
class PieceUrls:
    """A URL for each piece, good for one PUT."""

    urls: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Read(Question[Grant]):
    """Leave to read an object."""

    name = "read"
    key: str


@dataclass(frozen=True, slots=True)
class Upload(Question[UploadGrant]):
    """A new upload of a part; the one before is dropped."""

    name = "upload"
    part: PartNumber


@dataclass(frozen=True, slots=True)
class UploadPieces(Question[PieceUrls]):
    """URLs for pieces of a part's upload."""

    name = "pieces"
    part: PartNumber
    numbers: Annotated[tuple[int, ...], Length(PIECES_ASKED_MAX)]


QUESTIONS: dict[str, type[Question[Any]]] = {kind.name: kind for kind in (Read, Upload, UploadPieces)}


def read_request(op: str, given: object) -> Request[Any]:
    """The request in a line. UsageError, which names the field, if it is none of those above."""
    if op not in REQUESTS:
        raise UsageError(f"the engine knows no request '{op[:80]}'")
    return fields.read(REQUESTS[op], given, f"request '{op}'", UsageError)


def read_question(name: str, facts: object) -> Question[Any]:
    """The question of an event. Refused if it is none of those above, Corrupt if a field does not fit."""
    if name not in QUESTIONS:
        raise Refused(f"the engine asked for '{name[:80]}', which is not part of its work")
    return fields.read(QUESTIONS[name], facts, f"question '{name}' of the engine")
