"""The first process of a test machine: everything that runs there descends from it, and ends with it.

python -I -S machine_init.py PROGRAM ARGUMENT...: runs the program and adopts what others leave behind, daemons too. At
SIGTERM, when the program ends or when the process that started this one is gone, all of it is killed. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
AWAITED = (signal.SIGTERM, signal.SIGCHLD)


def main(command: list[str]) -> None:
    parent, libc = os.getppid(), ctypes.CDLL(None)
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        return
    program = os.fork()
    if program == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
        os.execv(command[0], command)
    while signal.sigwait(AWAITED) != signal.SIGTERM and program not in _ended_children():
        pass
    _kill_all()


def _ended_children() -> list[int]:
    """Those that have ended since the last call."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            found.append(pid)
    return found


def _kill_all() -> None:
    """The children of what is killed become children of this process, and are next."""
    while True:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # pid (name, which may hold anything) state parent
                if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                    os.kill(int(stat.parent.name), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
