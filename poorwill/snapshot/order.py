"""What a snapshot, or a restore, is to be: one record from the flow's parameters to the engine's request."""

from __future__ import annotations

from dataclasses import dataclass

from poorwill import defaults
from poorwill.errors import UsageError
from poorwill.snapshot import ids, labels, limits
from poorwill.snapshot.choices import CODECS, VERIFY_MODES, WRITERS, Codec, VerifyMode, Writers
from poorwill.snapshot.shrinkage import directory_of


@dataclass(frozen=True, slots=True)
class PackSettings:
    """What an engine has to know of a snapshot. UsageError if it cannot be taken so.

    writers: what becomes of processes that have a file of the workspace open for writing, or mapped so, when the
    machine is to be destroyed. allow_shrink: whether it may be, although most of the workspace is gone.
    """

    machine: str
    snapshot_id: str
    workspace: str  # a path on the machine
    exclude: tuple[str, ...] = ()
    codec: Codec = defaults.CODEC
    portable: bool = False
    parts: int = limits.PARTS
    skip_unreadable: bool = False
    writers: Writers = defaults.WRITERS
    allow_shrink: bool = False

    def __post_init__(self) -> None:
        check_workspace(self.workspace)
        ids.checked_machine_name(self.machine)
        ids.checked_snapshot_id(self.snapshot_id)
        if self.codec not in CODECS:
            raise UsageError(f"codec '{self.codec}': expected one of {', '.join(CODECS)}")
        if not 1 <= self.parts <= limits.PARTS:
            raise UsageError(f"parts {self.parts}: expected 1 to {limits.PARTS}")
        if self.writers not in WRITERS:
            raise UsageError(f"writers '{self.writers}': expected one of {', '.join(WRITERS)}")


@dataclass(frozen=True, slots=True)
class SnapshotOrder(PackSettings):
    """All that was asked for. `instance` is the rented machine's, for the verification record."""

    instance: str = ""
    parent: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    verify: VerifyMode = defaults.VERIFY

    def __post_init__(self) -> None:
        PackSettings.__post_init__(self)
        labels.checked_name(self.name)
        labels.checked_tags(self.tags)
        if self.verify not in VERIFY_MODES:
            raise UsageError(f"verify '{self.verify}': expected one of {', '.join(VERIFY_MODES)}")


@dataclass(frozen=True, slots=True)
class RestoreOrder:
    """How a snapshot is restored into `workspace`, a path on the machine.

    include: globs; none: everything. overwrite: whether files that are there may be replaced; those that are equal are
    kept. privileged: with set-id bits and privileged attributes. cache: a directory on the machine, outside the
    workspace, where stored chunks are looked for before they are fetched, and then kept, `cache_bytes_max` of them.
    """

    workspace: str
    include: tuple[str, ...] = ()
    overwrite: bool = False
    privileged: bool = False
    cache: str | None = None
    cache_bytes_max: int = defaults.CACHE_BYTES_MAX

    def __post_init__(self) -> None:
        check_workspace(self.workspace)


def check_workspace(path: str) -> None:
    """UsageError for the root of a machine: a workspace is a directory on it."""
    if path.startswith("/") and directory_of(path, "") == "/":
        raise UsageError(f"workspace '{path}' is the whole machine: name a directory on it, like {defaults.WORKSPACE}")
