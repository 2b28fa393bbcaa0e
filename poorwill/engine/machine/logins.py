"""Who is on a machine: sessions of its SSH server, and terminals in use.

Read from /proc and /dev/pts, because the records of logins (utmp) are missing in most containers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from poorwill.engine.machine import processes
from poorwill.engine.machine.processes import Process

KEEPER = "poorwill.remote.link.keeper"
SSHD = ("sshd", "sshd-session", "sshd-auth")  # the latter two since OpenSSH 9.8
_TITLE = re.compile(r"sshd(?:-session|-auth)?: (?P<about>.*)", re.DOTALL)
_LISTENER = "[listener]"
_UNAUTHENTICATED = ("[net]", "[preauth]", "[accepted]")
DROPBEAR = "dropbear"
WHO_MAX = 80


@dataclass(frozen=True, slots=True)
class Login:
    """One authenticated connection. `who` is how the SSH server titles it, like `root@pts/0`."""

    pid: int
    who: str


@dataclass(frozen=True, slots=True)
class Terminal:
    """One /dev/pts/N that processes have. `idle_s`: the time since the last key or output."""

    name: str
    idle_s: float


def logins(root: Path, found: Mapping[int, Process], own_keeper: str = "") -> list[Login]:
    """The authenticated connections to SSH servers here, without those through which `own_keeper` is reached: strangers
    try passwords at every address, all day."""
    sessions = {pid: about for pid in found if (about := _session(root, found[pid])) is not None}
    members: dict[int, list[int]] = {}
    for pid in sessions:
        members.setdefault(_top(pid, sessions, found), []).append(pid)
    own = {_top(pid, sessions, found) for pid in _ways_to(root, found, own_keeper, sessions)}
    authenticated = [
        top for top, pids in members.items() if not any(_unauthenticated(found[pid], sessions[pid]) for pid in pids)
    ]
    ssh = [Login(top, _who([sessions[pid] for pid in members[top]])) for top in authenticated if top not in own]
    return sorted([*ssh, *_dropbear_logins(found)], key=lambda login: login.pid)


def own_keeper(root: Path, engine_pid: int, found: Mapping[int, Process]) -> str:
    """The name of the keeper that holds this engine, "" where it has none."""
    engine = found.get(engine_pid)
    return _keeper_name(processes.arguments(root, engine.parent)) if engine is not None else ""


def terminals(root: Path, found: Iterable[Process], now_s: float) -> list[Terminal]:
    """The terminals of `found`, last used first. One without a device here is another container's, or the console."""
    used = []
    for number in sorted({process.terminal for process in found if process.terminal is not None}):
        try:
            status = os.stat(root / "dev/pts" / str(number))
        except OSError:
            continue
        used.append(Terminal(f"pts/{number}", max(0.0, now_s - max(status.st_atime, status.st_mtime))))
    return sorted(used, key=lambda terminal: terminal.idle_s)


def _session(root: Path, process: Process) -> str | None:
    """What the title of an SSH server's process for one connection says; None for any other process."""
    if process.name not in SSHD:
        return None
    title = _TITLE.match(" ".join(processes.arguments(root, process.pid)).strip())
    return title["about"] if title is not None and _LISTENER not in title["about"] else None


def _top(pid: int, sessions: Mapping[int, str], found: Mapping[int, Process]) -> int:
    """The first process of the connection that `pid` belongs to."""
    for _ in range(len(sessions)):
        if found[pid].parent not in sessions:
            break
        pid = found[pid].parent
    return pid


def _unauthenticated(process: Process, about: str) -> bool:
    return process.name == "sshd-auth" or about.rstrip().endswith(_UNAUTHENTICATED)


def _who(titles: list[str]) -> str:
    best = next((title for title in titles if "@" in title), titles[0])
    return best.replace("[priv]", "").strip()[:WHO_MAX]


def _ways_to(root: Path, found: Mapping[int, Process], keeper: str, sessions: Mapping[int, str]) -> list[int]:
    """The sessions from which clients of that keeper descend: it holds the engine while its connections change."""
    ways: list[int] = []
    for process in found.values() if keeper else ():
        if process.name.startswith("python") and _keeper_name(processes.arguments(root, process.pid)) == keeper:
            ways += [ancestor for ancestor in ancestors(process, found) if ancestor in sessions][:1]
    return ways


def _keeper_name(arguments: list[str]) -> str:
    at = arguments.index(KEEPER) + 1 if KEEPER in arguments else len(arguments)
    return arguments[at] if at < len(arguments) else ""


def ancestors(process: Process, found: Mapping[int, Process]) -> list[int]:
    line = [process.parent]
    while line[-1] in found and len(line) < len(found):  # pids are used again: what is read bit by bit may be a ring
        line.append(found[line[-1]].parent)
    return line


def _dropbear_logins(found: Mapping[int, Process]) -> list[Login]:
    """Dropbear titles no process: a connection with a process of its own is authenticated."""
    servers = {p.pid for p in found.values() if p.name == DROPBEAR}
    serving = {pid for pid in servers if found[pid].parent in servers}
    with_shell = {p.parent for p in found.values() if p.name != DROPBEAR and p.parent in serving}
    return [Login(pid, DROPBEAR) for pid in with_shell]
