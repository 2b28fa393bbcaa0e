"""The local stack: everything on this host, in the background, by one command.

    python -m deployments.stack up | down [--now] [--purge [--yes]] | status [--json]

`up` starts what is missing and changes nothing else; settings come from the environment, see docs/operating.md. `down`
ends it and keeps its data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deployments.stack import down as stack_down
from deployments.stack import parts
from deployments.stack import up as stack_up
from deployments.stack.settings import PARTS, StackSettings
from poorwill.cli.output import Output
from poorwill.cli.run_report import aligned
from poorwill.errors import PoorwillError, Refused
from poorwill.file_lock import FileLock, lock_directory

INTERRUPTED = 130
Row = dict[str, str | int | None]


def up(argv: list[str]) -> int:
    """Start what is missing, and register all that is deployed. Returns the exit code."""
    return run(["up", *argv])


def down(argv: list[str]) -> int:
    """End everything that `up` has started. Returns the exit code."""
    return run(["down", *argv])


def status(argv: list[str]) -> int:
    """Show what runs. Returns 0 if all parts are healthy, else 1."""
    return run(["status", *argv])


def run(argv: list[str], prog: str = "poorwill") -> int:
    """Run a command. Returns its exit code; an error is one line."""
    options = _parser(prog).parse_args(argv)
    output = Output(json_lines=options.json)
    try:
        return int(options.run(options, output))
    except PoorwillError as error:
        output.failed(error)
        return error.exit_code
    except OSError as error:
        output.failed(PoorwillError(f"{error.filename or 'the stack'}: {error.strerror or error}"))
        return PoorwillError.exit_code
    except KeyboardInterrupt:
        output.hint = "`up` goes on where it was, `down` ends what was started"
        output.interrupted()
        return INTERRUPTED


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="The local stack: everything on this host.")
    parser.set_defaults(json=False)
    commands = parser.add_subparsers(required=True, metavar="up|down|status")
    up = commands.add_parser("up", description="Start the local stack in the background.")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", description="End the local stack; its data are kept.")
    down.add_argument("--now", action="store_true", help="do not wait for runs: they go back into the queue")
    down.add_argument("--purge", action="store_true", help="remove its data too: runs, snapshots, machines, videos")
    down.add_argument("--yes", action="store_true", help="with --purge: do not ask")
    down.set_defaults(run=_down)
    status = commands.add_parser("status", description="Show the parts of the local stack.")
    status.add_argument("--json", action="store_true", help="one JSON object a line; the last has all parts")
    status.set_defaults(run=_status)
    return parser


def _up(options: argparse.Namespace, output: Output) -> int:
    settings = StackSettings.read()
    settings.check()
    settings.stack_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(settings.stack_dir):
        stack_up.up(settings, lambda line: output.lines([line]))
    output.lines(["", *_table(_rows(settings))])
    return 0


def _down(options: argparse.Namespace, output: Output) -> int:
    settings = StackSettings.read()
    folder = settings.stack_dir

    def say(line: str) -> None:
        output.lines([line])

    if not folder.is_dir():
        say(f"there is no stack in {folder}")
        return 0
    if options.purge and not options.yes:
        _ask(folder)
    with _lock(folder):
        stack_down.down(folder, drain_timeout_s=0 if options.now else settings.drain_timeout_s, say=say)
        if options.purge:
            stack_down.purge(folder, say)
        else:
            say(f"its data are kept in {folder}")
    return 0


def _status(options: argparse.Namespace, output: Output) -> int:
    settings = StackSettings.read()
    rows = _rows(settings)
    for row in rows:
        output.event("part", **row)
    output.event("done", folder=str(settings.stack_dir), parts=rows)
    output.lines(_table(rows))
    return 0 if all(row["health"] == "healthy" for row in rows) else 1


def _rows(settings: StackSettings) -> list[Row]:
    """Every part of the configuration, and what else runs of the folder, with its address, pid and health."""
    rows: list[Row] = []
    wanted = {part.name: part for part in parts.parts(settings)}
    running = {part.name: part for part in parts.left_running(settings.stack_dir)}
    for name in PARTS:
        part = wanted.get(name) or running.get(name)
        if part is None:
            continue
        process = part.running()
        address = process.address if process else part.address
        health = parts.health(name, address) if process else "not running"
        if process and name in wanted and wanted[name].is_outdated():
            health += "; started with other settings"
        rows.append({"name": name, "address": address, "pid": process.pid if process else None, "health": health})
    return rows


def _table(rows: list[Row]) -> list[str]:
    return aligned([{name.upper(): value or "-" for name, value in row.items()} for row in rows])


def _ask(folder: Path) -> None:
    """Refused, unless a person at the terminal says yes."""
    if not sys.stdin.isatty():
        raise Refused(f"there is no terminal to ask whether {folder} may be removed: say --yes too")
    print(f"This removes all runs, and the snapshots, machines and videos that are kept in {folder}.")
    if input("Remove it? Type yes: ").strip().lower() != "yes":
        raise Refused("nothing was removed")


def _lock(folder: Path) -> FileLock:
    """Two at a time would start the same thing twice."""
    lock = lock_directory(folder)
    if lock is None:
        raise Refused(f"another `up` or `down` is at work in {folder}: wait for it")
    return lock
