"""What is said of processes that still write to a workspace.

It is bounded: the message of a failed run is cut, and its end says how to go on.
"""

from __future__ import annotations

from collections.abc import Sequence

from poorwill.engine.protocol.answers import Writer
from poorwill.snapshot.choices import Writers

PROCESSES_SHOWN = 4
PATHS_SHOWN = 2
PATH_CHARS = 80
COMMAND_CHARS = 60
IGNORE = 'insist with writers="ignore" (in the API "writers": "ignore", on the command line --writers ignore)'
_STOP = 'writers="stop" (in the API "writers": "stop", on the command line --writers stop)'


def who_writes(writers: Sequence[Writer], count: int) -> str:
    """Who they are, by program and file: `count` of them, some of which are `writers`. "" if there are none."""
    said = []
    pids = list(dict.fromkeys(writer.pid for writer in writers))[:PROCESSES_SHOWN]
    for pid in pids:
        theirs = [writer for writer in writers if writer.pid == pid]
        names = ", ".join(short(writer.path) + " (mapped)" * writer.mapped for writer in theirs[:PATHS_SHOWN])
        more = ", .." if len(theirs) > PATHS_SHOWN else ""
        said.append(
            f"{theirs[0].name} (pid {pid}: {theirs[0].command[:COMMAND_CHARS]}) has {names}{more} open for writing"
        )
    shown = sum(writer.pid in pids for writer in writers)
    return "; ".join(said) + ("; .." if count > shown else "")


def way_on(policy: Writers) -> str:
    """What the user can do about them, where `policy` was asked for."""
    if policy == "stop":
        return f"it was asked to end and did not, or must not be: stop it, exclude what it writes, or {IGNORE}"
    if policy == "ignore":
        return "stop it first"
    return f"stop it, or let hibernate do that with {_STOP}, or {IGNORE}"


def short(path: str) -> str:
    """The end of a path."""
    return path if len(path) <= PATH_CHARS else f"..{path[2 - PATH_CHARS :]}"
