"""Who works in a workspace: a note in the engine's state, for an engine that finds it taken."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple

from poorwill.engine import state
from poorwill.engine.machine import processes
from poorwill.engine.machine.control_side import ControlSide, writes_to
from poorwill.timestamps import now

NOTES_MAX = 256
_TITLE_CHARACTERS = 200
_NOTE_BYTES_MAX = 64 << 10
_ROOT = Path("/")


class Holder(NamedTuple):
    """An engine and its control side: processes, and when they began. The numbers mean something at `place` alone.

    `control` is 0 where the engine's parent cannot be seen, `pipe` where it is not known whose pipe requests come by.
    """

    pid: int
    born: str
    control: int
    control_born: str
    pipe: int
    place: str
    since: str
    doing: str

    @classmethod
    def of_this_process(cls, doing: str, control: ControlSide | None) -> Holder:
        parent = control.parent if control is not None else os.getppid()
        pipe = control.pipe if control is not None else 0
        born = [processes.born(_ROOT, pid) for pid in (os.getpid(), parent)]
        return cls(os.getpid(), born[0], parent, born[1], pipe, _place(), now(), doing)

    @property
    def runs(self) -> bool:
        """Whether its process is known to run, or to be stopped, where we are."""
        return self.place == _place() and processes.runs(_ROOT, self.pid, self.born)

    @property
    def abandoned(self) -> bool:
        """Whether it runs although its control side is gone: nobody will ever hear of what it does.

        It would notice by itself, unless it is stopped or hangs. False where that is not known.
        """
        if not self.runs or self.pid == os.getpid() or not self.control:
            return False
        if not processes.runs(_ROOT, self.control, self.control_born):
            return True
        return processes.parent_of(_ROOT, self.pid) != self.control or self._is_hung_up

    @property
    def _is_hung_up(self) -> bool:
        return bool(self.pipe) and writes_to(self.control, self.pipe) is False

    def kill(self) -> bool:
        """End it at once, a stopped one too; False if we may not. Returns before it has ended."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        except (OSError, AttributeError):
            return self._kill_by_number()
        try:
            if self.runs:  # looked at again: now the descriptor is of this very process
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            return True
        except ProcessLookupError:
            return True
        except OSError:
            return False
        finally:
            os.close(fd)

    def _kill_by_number(self) -> bool:
        """Where the kernel is older than 5.3."""
        try:
            if self.runs:
                os.kill(self.pid, signal.SIGKILL)
            return True
        except ProcessLookupError:
            return True
        except OSError:
            return False

    def describe(self) -> str:
        words = f"process {self.pid} ({self.doing}, since {self.since})"
        if self.place != _place():
            return f"{words} of {self.place.partition(' ')[0]}, seen from elsewhere"
        title = " ".join(processes.arguments(_ROOT, self.control)).strip()[:_TITLE_CHARACTERS]
        return f"{words} of process {self.control}" + (f": {title}" if title else "")


class HolderNote:
    """The note of the workspace that the directory `root` is, by whatever path it is reached."""

    def __init__(self, root: bytes) -> None:
        found = os.stat(root)
        self._path = state.state_dir() / f"working-{found.st_dev:x}-{found.st_ino:x}.json"

    def write(self, holder: Holder) -> None:
        """Best effort: without it the lock holds all the same, but nobody is told whose it is."""
        with contextlib.suppress(OSError):
            state.save(self._path, holder, NOTES_MAX)

    def read(self) -> Holder | None:
        """Who has noted that they work there last: perhaps not the one who holds the lock."""
        return state.load(self._path, Holder, _NOTE_BYTES_MAX)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()


def _place() -> str:
    """This host, since it was booted, and the numbers that its processes have for us."""
    try:
        boot = processes.boot_id(_ROOT)
        return f"{os.uname().nodename} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{os.uname().nodename} unknown"
