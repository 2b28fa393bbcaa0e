"""Ending processes of a user: asked to (SIGTERM), given time, and never those through which the machine is reached."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from poorwill.engine.machine import logins, processes
from poorwill.engine.machine.processes import Process
from poorwill.errors import HostUnfit

PATIENCE_S = 10.0
LOOK_EVERY_S = 0.05
_ENGINE = "poorwill.engine"
_SHELLS = frozenset(("ash", "bash", "csh", "dash", "fish", "ksh", "login", "mksh", "sh", "tcsh", "zsh"))
_DOORS = frozenset((*logins.SSHD, logins.DROPBEAR, "login", "agetty", "getty", "systemd-logind"))
"""Programs that let people in."""


def never_signalled(pids: Iterable[int], engine_pid: int, root: Path = Path("/")) -> set[int]:
    """Which of `pids` are PID 1, an SSH server or one of its sessions, a shell that somebody logged in with, an engine
    or keeper of ours, or one of the processes that this engine was started by."""
    asked = set(pids)
    try:
        found = processes.read_processes(root)
    except HostUnfit:
        return asked  # without the list nobody knows who is who
    ours = {1, engine_pid}
    if engine_pid in found:
        ours.update(logins.ancestors(found[engine_pid], found))
    return {pid for pid in asked if pid in ours or pid not in found or _let_in(root, pid, found)}


def _let_in(root: Path, pid: int, found: Mapping[int, Process]) -> bool:
    process = found[pid]
    above = found.get(process.parent)
    came_in = process.parent == 0 or (above is not None and above.name in _DOORS)  # 0: into a container, from outside
    if process.name in _DOORS or (process.name in _SHELLS and came_in):
        return True
    arguments = processes.arguments(root, pid)
    return arguments[:1] != [] and (arguments[0].startswith("-") or _ENGINE in arguments or logins.KEEPER in arguments)


def stop(pids: Iterable[int], patience_s: float = PATIENCE_S, root: Path = Path("/")) -> None:
    """Ask processes to end, and wait until all have, or for so long. One that is stopped (SIGSTOP) goes on first.

    Whoever asks looks again for those that did not end, or that are another user's and were not to be asked.
    """
    asked = {pid: processes.born(root, pid) for pid in pids}
    for pid in asked:
        for number in (signal.SIGTERM, signal.SIGCONT):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
    ends_s = time.monotonic() + patience_s
    while any(processes.runs(root, *one) for one in asked.items()) and time.monotonic() < ends_s:
        time.sleep(LOOK_EVERY_S)
