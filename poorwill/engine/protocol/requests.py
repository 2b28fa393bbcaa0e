"""What can be asked of an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from poorwill.engine.protocol.answers import (
    Changes,
    CommandEnd,
    ConvertPlanned,
    MachineFacts,
    ManifestSent,
    PartRestored,
    PartSent,
    PartsListed,
    PartVerified,
    Planned,
    Restored,
    RestoreOpened,
    SnapshotManifestSent,
)
from poorwill.engine.protocol.asking import PartBytes, PartNumber, PartRow, Request
from poorwill.errors import UsageError
from poorwill.snapshot import fields
from poorwill.snapshot.fields import INLINE
from poorwill.snapshot.metadata import ManifestReference
from poorwill.snapshot.order import PackSettings, RestoreOrder


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


def read_request(op: str, given: object) -> Request[Any]:
    """The request in a line. UsageError, which names the field, if it is none of those above."""
    if op not in REQUESTS:
        raise UsageError(f"the engine knows no request '{op[:80]}'")
    return fields.read(REQUESTS[op], given, f"request '{op}'", UsageError)
