"""One engine at a time works in a workspace: a lock on its directory.

The lock is the kernel's (flock), on a descriptor of the directory itself: no file enters the workspace, and it goes
with its holder, however that ends. An engine that was stopped keeps it, and its threads would go on where they were
once it is let go: a successor finds out that nobody waits for it, ends it for good, and only then begins.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from poorwill.engine.machine.control_side import ControlSide
from poorwill.engine.machine.holder import Holder, HolderNote
from poorwill.engine.protocol.context import Context
from poorwill.errors import Refused, WorkspaceError
from poorwill.file_lock import FileLock, lock_directory

PATIENCE_S = 3.0
"""How long a living holder, which may be about to end, is waited for."""
END_S = 30.0
"""How long one that was killed may take to end: a disk that hangs holds it up."""
_POLL_S = 0.05
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)
"""EBADF: NFS locks only what is open for writing, and a directory never is."""


def _lock_directory(root: bytes) -> FileLock | None:
    return lock_directory(os.fsdecode(root))


class WorkspaceLock:
    """What one engine holds: at most one workspace. Not for concurrent use.

    control: for whom the engine works. lock: takes the lock of a directory; None if somebody has it, OSError.
    """

    def __init__(
        self,
        control: ControlSide | None = None,
        *,
        lock: Callable[[bytes], FileLock | None] = _lock_directory,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._control, self._lock_directory, self._patience_s = control, lock, patience_s
        self._held: FileLock | None = None
        self._note: HolderNote | None = None
        self._root: tuple[int, int] | None = None
        self.warnings: tuple[str, ...] = ()
        """What the user has to know of the lock that was taken last."""

    def take(self, workspace: str, doing: str, context: Context) -> None:
        """Become the one who works there, for as long as it takes. Again for the same directory: nothing happens.

        Refused, with the holder's name, if another engine works there whose control side is there as well. One whose
        control side is gone is killed. WorkspaceError if the directory cannot be opened; what `context` raises.
        """
        root = os.fsencode(workspace)
        try:
            found = os.stat(root)
            if self._root == (found.st_dev, found.st_ino):
                return
            self.release()
            note = HolderNote(root)
            held = self._wait(root, note, context)
        except OSError as error:
            raise WorkspaceError(f"{workspace}: {error.strerror}: nothing was read or written there") from None
        self._held, self._note, self._root = held, note, (found.st_dev, found.st_ino)
        note.write(Holder.of_this_process(doing, self._control))

    @contextmanager
    def released_on_failure(self) -> Iterator[None]:
        """What fails inside leaves the workspace to others."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    @contextmanager
    def during(self, workspace: str, doing: str, context: Context) -> Iterator[None]:
        """Take it for what is inside alone, unless it is held already."""
        before = self._root
        self.take(workspace, doing, context)
        try:
            yield
        finally:
            if self._root != before:
                self.release()

    def release(self) -> None:
        """Let others work there. Idempotent."""
        held, note = self._held, self._note
        self._held = self._note = self._root = None
        if note is not None:
            note.remove()  # before the lock goes: the next one writes its own
        if held is not None:
            held.close()

    def _wait(self, root: bytes, note: HolderNote, context: Context) -> FileLock | None:
        """The lock, or None where the file system has none: then the note alone tells whether somebody works there."""
        began_s, killed = time.monotonic(), False
        self.warnings = ()
        while True:
            context.check()
            if self._control is not None:
                self._control.check()
            locks, held = self._try(root)
            holder = note.read()
            if held is not None or (not locks and (holder is None or not holder.runs or holder.pid == os.getpid())):
                return held
            if holder is not None and holder.abandoned:
                killed = holder.kill() or killed
            waited_s = time.monotonic() - began_s
            if waited_s > (END_S if killed else self._patience_s):
                raise Refused(_refusal(os.fsdecode(root), holder, killed))
            time.sleep(_POLL_S)

    def _try(self, root: bytes) -> tuple[bool, FileLock | None]:
        """Whether the file system knows locks, and the lock if it was free."""
        try:
            return True, self._lock_directory(root)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self.warnings = (
                f"{os.fsdecode(root)}: its file system has no locks ({error.strerror}): nothing keeps engines of other "
                "machines from working there at the same time",
            )
            return False, None


def _refusal(workspace: str, holder: Holder | None, killed: bool) -> str:
    if killed and holder is not None:
        return (
            f"{workspace}: {holder.describe()}, which nobody waits for, was killed and has not ended for "
            f"{END_S:.0f} s, perhaps because its disk hangs: nothing was done there; try again when it has ended"
        )
    if holder is not None and holder.runs:
        return (
            f"{workspace}: another engine works there, {holder.describe()}: nothing was done there; wait until it "
            "ends, or end that process"
        )
    last = f"; the last that noted to work there is {holder.describe()}" if holder is not None else ""
    return (
        f"{workspace}: another process has locked the directory{last}: nothing was done there; wait until it ends, or "
        f"find it with 'fuser -v {workspace}' and end it"
    )
