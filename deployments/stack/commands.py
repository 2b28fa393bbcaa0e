"""The local stack: everything on this host, in the background, by one command.

    python -m deployments.stack up | down [--now] [--purge [--yes]] | status [--json]

`up` starts what is missing and changes nothing else; settings come from the environment, see docs/operating.md. `down`
ends it and keeps its data.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from deployments.stack import down as stack_down
from deployments.stack import parts
from deployments.stack import up as stack_up
from deployments.stack.settings import StackSettings, stack_folder
from poorwill.errors import PoorwillError, Refused

INTERRUPTED = 130
SHOWN = ("name", "address", "pid", "health")


def up(argv: list[str]) -> int:
    """Start what is missing, and register all that is deployed. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="poorwill up", description="Start the local stack in the background.")
    parser.parse_args(argv)
    return _told(lambda: _up(StackSettings.read(os.environ)))


def down(argv: list[str]) -> int:
    """End everything that `up` has started. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="poorwill down", description="End the local stack; its data are kept.")
    parser.add_argument("--now", action="store_true", help="do not wait for runs: they go back into the queue")
    parser.add_argument("--purge", action="store_true", help="remove its data too: runs, snapshots, machines, videos")
    parser.add_argument("--yes", action="store_true", help="with --purge: do not ask")
    return _told(lambda: _down(parser.parse_args(argv)))


def status(argv: list[str]) -> int:
    """Show what runs. Returns 0 if all parts are healthy, else 1."""
    parser = argparse.ArgumentParser(prog="poorwill status", description="Show the parts of the local stack.")
    parser.add_argument("--json", action="store_true", help="one JSON object a line; the last has all parts")
    options = parser.parse_args(argv)
    return _told(lambda: _status(StackSettings.read(os.environ), options.json))


def _up(settings: StackSettings) -> int:
    with _only_one(settings.folder):
        stack_up.up(settings, _say)
    _say("")
    _table(rows(settings))
    return 0


def _down(options: argparse.Namespace) -> int:
    folder = stack_folder(os.environ)
    if not folder.is_dir():
        _say(f"there is no stack in {folder}")
        return 0
    if options.purge and not options.yes:
        _ask(folder)
    with _only_one(folder):
        stack_down.down(folder, now=options.now, say=_say)
        if options.purge:
            stack_down.purge(folder, _say)
        else:
            _say(f"its data are kept in {folder}")
    return 0


def _status(settings: StackSettings, as_json: bool) -> int:
    found = rows(settings)
    if as_json:
        for row in found:
            _say(json.dumps({"event": "part", **row}))
        _say(json.dumps({"event": "done", "folder": str(settings.folder), "parts": found}))
    else:
        _table(found)
    return 0 if all(row["health"] == "healthy" for row in found) else 1


def rows(settings: StackSettings) -> list[dict[str, str | int | None]]:
    """Every part of the configuration, and what else runs of the folder, with its address, pid and health."""
    found = []
    wanted = {part.name: part for part in parts.parts(settings)}
    running = {part.name: part for part in parts.left_running(settings.folder)}
    for name in parts.NAMES:
        part = wanted.get(name) or running.get(name)
        if part is None:
            continue
        process = part.running()
        address = process.address if process else part.address
        health = parts.health(name, address) if process else "not running"
        if process and name in wanted and wanted[name].is_outdated():
            health += "; started with other settings"
        found.append({"name": name, "address": address, "pid": process.pid if process else None, "health": health})
    return found


def _table(found: list[dict[str, str | int | None]]) -> None:
    table = [tuple(map(str.upper, SHOWN)), *(tuple(str(row[key] or "-") for key in SHOWN) for row in found)]
    widths = [max(len(row[column]) for row in table) for column in range(len(SHOWN))]
    for row in table:
        _say("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


def _ask(folder: Path) -> None:
    """Refused, unless a person at the terminal says yes."""
    if not sys.stdin.isatty():
        raise Refused(f"nobody can be asked whether {folder} may be removed: say --yes too")
    _say(f"This removes all runs, and the snapshots, machines and videos that are kept in {folder}.")
    if input("Remove it? Type yes: ").strip().lower() != "yes":
        raise Refused("nothing was removed")


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two at a time would start the same thing twice; the lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Refused(f"another `up` or `down` is at work in {folder}: wait for it") from None
    finally:
        os.close(held)


def _told(do: Callable[[], int]) -> int:
    """What `do` returns, or the exit code of its error, which is one line."""
    try:
        return do()
    except PoorwillError as error:
        line, code = error.message, error.exit_code
    except KeyboardInterrupt:
        line, code = "interrupted; `up` goes on where it was, `down` ends what was started", INTERRUPTED
    except OSError as error:
        line, code = f"{error.filename or 'the stack'}: {error.strerror or error}", 1
    print(f"poorwill: {line}", file=sys.stderr)
    return code


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # nobody listens any more; what is being done is done to its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main() -> NoReturn:
    commands = {"up": up, "down": down, "status": status}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        print("usage: python -m deployments.stack up|down|status [--help]", file=sys.stderr)
        sys.exit(2)
    sys.exit(commands[sys.argv[1]](sys.argv[2:]))
