"""What can be asked of an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from poorwill.engine.protocol import answers
from poorwill.engine.protocol.asking import PartBytes, PartNumber, PartRow, Request, name_of
from poorwill.errors import UsageError
from poorwill.snapshot import fields
from poorwill.snapshot.fields import INLINE
from poorwill.snapshot.metadata import ManifestReference
from poorwill.snapshot.order import PackSettings, RestoreOrder


@dataclass(frozen=True, slots=True)
class Hello(Request[answers.MachineFacts]):
    """The first request of a conversation."""

    workspace: str = "/"


@dataclass(frozen=True, slots=True)
class Activity(Request[dict[str, Any]]):
    """What goes on there. Whoever judges the answer reads it field by field: a figure that is wrong is not known."""

    window_s: float


@dataclass(frozen=True, slots=True)
class Command(Request[answers.CommandEnd]):
    """Run a shell command."""

    command: str
    workspace: str


@dataclass(frozen=True, slots=True)
class FoundPart:
    """A finished part that a killed run left behind."""

    key: str
    number: PartNumber
    size: PartBytes


@dataclass(frozen=True, slots=True)
class Hold(Request[dict[str, Any]]):
    """Be the only engine that works in a workspace."""

    workspace: str


@dataclass(frozen=True, slots=True)
class Scan(Request[answers.Planned]):
    """Walk the workspace, and plan its parts."""

    settings: PackSettings
    parent: ManifestReference | None
    adopt: tuple[FoundPart, ...]


@dataclass(frozen=True, slots=True)
class Pack(Request[answers.PartSent]):
    """Code and send a part that was planned last."""

    part: PartNumber


@dataclass(frozen=True, slots=True)
class Settle(Request[answers.Planned]):
    """Scan again, and plan what changed."""


@dataclass(frozen=True, slots=True)
class Manifest(Request[answers.SnapshotManifestSent]):
    """Send the manifest of the snapshot in pages."""


@dataclass(frozen=True, slots=True)
class Changed(Request[answers.Changes]):
    """Whether the workspace differs from a snapshot, but for the paths that it left out."""

    settings: PackSettings
    manifest: ManifestReference
    left_out: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class OpenRestore(Request[answers.RestoreOpened]):
    """Begin, or continue, a restore."""

    manifest: ManifestReference
    order: RestoreOrder = field(metadata=INLINE)


@dataclass(frozen=True, slots=True)
class Restore(Request[answers.PartRestored]):
    """Restore what is missing of one part."""

    part_row: PartRow


@dataclass(frozen=True, slots=True)
class FinishRestore(Request[answers.Restored]):
    """Links, attributes, times, and the count of everything."""


@dataclass(frozen=True, slots=True)
class OpenVerify(Request[answers.PartsListed]):
    """Begin a verification; full: chunks are decoded, too."""

    manifest: ManifestReference
    full: bool = False


@dataclass(frozen=True, slots=True)
class Verify(Request[answers.PartVerified]):
    """Read one part back."""

    part_row: PartRow


@dataclass(frozen=True, slots=True)
class OpenConvert(Request[answers.ConvertPlanned]):
    """Begin a conversion of the snapshot of that manifest into a new one."""

    manifest: ManifestReference
    snapshot_id: str
    adopt: tuple[FoundPart, ...]


@dataclass(frozen=True, slots=True)
class Convert(Request[answers.PartSent]):
    """Write a part that was planned."""

    part: PartNumber


@dataclass(frozen=True, slots=True)
class FinishConvert(Request[answers.ManifestSent]):
    """Send the manifest of the new snapshot in pages."""


_KINDS: tuple[type[Request[Any]], ...] = (
    Hello, Activity, Command, Hold, Scan, Pack, Settle, Manifest, Changed, OpenRestore, Restore, FinishRestore,
    OpenVerify, Verify, OpenConvert, Convert, FinishConvert,
)  # fmt: skip
REQUESTS = {name_of(kind): kind for kind in _KINDS}


def read_request(op: str, given: object) -> Request[Any]:
    """The request in a line. UsageError if there is no such request, or if a field of it does not fit."""
    if op not in REQUESTS:
        raise UsageError(f"the engine knows no request '{op[:80]}'")
    return fields.read(REQUESTS[op], given, f"request '{op}'", UsageError)
