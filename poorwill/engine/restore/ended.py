"""The last restore that ended in a workspace: asked for again, it is done already.

The answer to the last step can be lost, and whoever does not get it asks again. By then the machine's user may have
begun to work, so nothing is looked at and nothing is touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

from poorwill.engine import state
from poorwill.engine.identity import identity_of
from poorwill.engine.journal import Journal, boot_id
from poorwill.engine.protocol.answers import PartRestored, Restored, RestoreOpened
from poorwill.engine.protocol.context import Context
from poorwill.engine.restore.selection import selection_of
from poorwill.engine.transfer.fetch import Source
from poorwill.snapshot.fields import Range
from poorwill.snapshot.order import RestoreOrder
from poorwill.snapshot.tables import Manifest
from poorwill.timestamps import now


class Ended(NamedTuple):
    """What is remembered of a restore. `settled` is false until the times of the root are set, after its mark went.

    root: device, inode and time of birth of the directory: a later one of the same name is another.
    """

    manifest: str
    selection: tuple[str, ...]
    root: str
    boot: str
    at: str
    mtime_ns: Annotated[int, Range(-(1 << 63), (1 << 63) - 1)]
    settled: bool
    result: Restored

    @classmethod
    def of(cls, root: bytes, manifest: str, selection: list[str], mtime_ns: int, result: Restored) -> Ended:
        return cls(manifest, tuple(sorted(selection)), identity_of(root), boot_id(), now(), mtime_ns, False, result)

    def save(self, root: bytes) -> None:
        """Best effort: where it is lost, the same restore is refused once the workspace holds something."""
        with suppress(OSError):
            state.save(_file_of(root), self)


def forget(root: bytes) -> None:
    """To be called before anything is restored there: what is cut off then, and loses its mark by hand, must not pass
    for the restore before it. Best effort."""
    with suppress(OSError):
        _file_of(root).unlink()


def _file_of(root: bytes) -> Path:
    return state.file_of("restored", root, ".json")


class EndedRestore:
    """A restore that had ended when it was opened. It answers what a RestoreRun does, and writes nothing."""

    def __init__(self, ended: Ended, manifest: Manifest) -> None:
        self._ended, self.manifest = ended, manifest

    @classmethod
    def found(cls, manifest: Manifest, manifest_hash: str, order: RestoreOrder) -> EndedRestore | None:
        """The restore that `order` asks for, if it was the last one there, since the machine was started.

        None if nothing of it is there any more, or another restore has begun since.
        """
        root, selection = os.fsencode(order.workspace), selection_of(order)
        try:
            if Journal.left_in(root) or next(iter(os.scandir(root)), None) is None:
                return None
            same = (manifest_hash, tuple(sorted(selection)), identity_of(root), boot_id())
        except (OSError, ValueError):
            return None
        ended = state.load(_file_of(root), Ended)
        if ended is None or (ended.manifest, ended.selection, ended.root, ended.boot) != same:
            return None
        if not ended.settled:
            ended = ended._replace(settled=True)
            os.utime(root, ns=(ended.mtime_ns, ended.mtime_ns))
            ended.save(root)
        return cls(ended, manifest)

    def opened(self) -> RestoreOpened:
        return RestoreOpened((), self._ended.result.raw_bytes, 0, False, already_done=True)

    def part(self, part_row: int, open_source: Callable[[], Source], context: Context) -> PartRestored:
        return PartRestored(part_row, 0, 0)

    def finish(self) -> Restored:
        return self._ended.result._replace(
            kept_bytes=0, cached_bytes=0, fetched_bytes=0, warnings=(), already_done=True
        )

    def close(self) -> None:
        """There is nothing to close."""
