"""The process that an engine works for: it holds the other end of the pipe that requests come through."""

from __future__ import annotations

import os
import select
import stat
import time
from pathlib import Path

LOOK_EVERY_S = 0.02
_WRITING = (os.O_WRONLY, os.O_RDWR)


class ControlSide:
    """Whether anybody is still there to work for.

    requests: the descriptor that requests are read from. parent: the process that started this one.
    """

    def __init__(self, requests: int, parent: int) -> None:
        self.parent = parent
        found = os.fstat(requests)
        self._requests = requests
        self._pipe = found.st_ino if stat.S_ISFIFO(found.st_mode) else 0
        self._seen_s = time.monotonic()

    @property
    def pipe(self) -> int:
        """The inode of the pipe, if the parent is who writes to it; else 0."""
        return self._pipe if self._pipe and writes_to(self.parent, self._pipe) else 0

    def check(self) -> None:
        """End this process, all of its threads, if the control side is gone.

        To be called before each change of a workspace: a process that was stopped, and goes on after its control side
        ended, must change nothing, whichever of its threads wakes up first. Looks at most every `LOOK_EVERY_S`, which
        costs nothing beside a change and is less than any successor takes to begin.
        """
        now_s = time.monotonic()
        if now_s - self._seen_s > LOOK_EVERY_S:
            if self._gone():
                os._exit(0)
            self._seen_s = now_s

    def _gone(self) -> bool:
        looking = select.poll()
        looking.register(self._requests, 0)  # POLLHUP is always told: nobody has the pipe open for writing any more
        return any(mask & select.POLLHUP for _, mask in looking.poll(0))


def writes_to(pid: int, pipe: int) -> bool | None:
    """Whether a process has that pipe open for writing; None if it cannot be looked into."""
    folder = Path(f"/proc/{pid}")
    try:
        for name in os.listdir(folder / "fd"):
            try:
                is_it = os.readlink(folder / "fd" / name) == f"pipe:[{pipe}]"
                if is_it and _mode(folder / "fdinfo" / name) in _WRITING:
                    return True
            except (OSError, ValueError):
                continue  # it was closed meanwhile
    except OSError:
        return None
    return False


def _mode(fdinfo: Path) -> int:
    flags = next(line for line in fdinfo.read_text().splitlines() if line.startswith("flags:"))
    return int(flags.partition(":")[2], 8) & os.O_ACCMODE
