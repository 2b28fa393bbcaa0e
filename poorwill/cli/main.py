"""Arguments of the program `poorwill`, and how it ends."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import signal
import sys
from typing import Any, NoReturn

from poorwill import __version__
from poorwill.cli import hosts, removal_arguments
from poorwill.cli.output import Output
from poorwill.errors import PoorwillError

EXIT_CODES = """exit codes: 0 done, 1 failed, 2 usage, 3 done but something was left out, 4 corrupt or unverifiable,
5 not found, 6 refused (would overwrite, would lose), 7 store or network, 130 interrupted"""


BROUGHT = ("up", "down", "status")
"""Commands of other packages, which read their arguments themselves."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one command and exit with its code; errors become one line, never a traceback."""
    _open_streams()
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="poorwill: %(message)s")
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv else ""
    brought = command in BROUGHT
    arguments = argparse.Namespace(json=False) if brought else parser(command).parse_args(argv)
    output = Output(json_lines=arguments.json)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _run_brought(command, argv[1:]) if brought else _run(arguments, output)
    except PoorwillError as error:
        output.failed(error)
        code = error.exit_code
    except KeyboardInterrupt:
        output.interrupted()
        code = 130
    if output.lost:
        logging.error("standard output could not be written: %s", output.lost)
        code = code or 1
    # Engine and transfer threads are gone or do not matter: leaving them to be joined only takes time.
    os._exit(code)


def _run(arguments: argparse.Namespace, output: Output) -> int:
    host = hosts.host_of(arguments)
    # While it is imported here, the engine imports the same beside us.
    commands = importlib.import_module(f"poorwill.cli.{arguments.module}")
    return int(getattr(commands, arguments.run)(arguments, output, host))


def _run_brought(command: str, arguments: list[str]) -> int:
    from poorwill.cli import installed

    return installed.run(command, arguments)


def _open_streams() -> None:
    """Streams that were closed become /dev/null before another file gets their number; any name can be printed."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Terminated(KeyboardInterrupt):
    """SIGTERM: it ends what Ctrl-C ends, and nobody is asked anything."""


def _interrupt(signum: int, frame: object) -> None:
    raise Terminated


def parser(command: str = "") -> argparse.ArgumentParser:
    """With what needs a server only if `command` is none of the core: those are to start as quickly as they can."""
    top = argparse.ArgumentParser(
        prog="poorwill", description="Snapshots of workspaces full of model weights.", epilog=EXIT_CODES
    )
    top.set_defaults(module="commands")
    top.add_argument("--version", action="version", version=f"poorwill {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--store", required=True, metavar="URL",
        help="file:///path or s3://bucket/prefix; endpoint and credentials from the usual AWS variables and files",
    )  # fmt: skip
    shared.add_argument("--json", action="store_true", help="one JSON object a line; the last has the totals")
    sub: Any = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for add in (_add_snapshot, _add_restore, _add_looking, _add_convert, _add_delete):
        add(sub, shared)
    removal_arguments.add_to(sub, shared)
    if command not in sub.choices:
        from poorwill.cli import flow_commands

        flow_commands.add_to(sub, command)
    return top


def _add_snapshot(sub: Any, shared: argparse.ArgumentParser) -> None:
    take = sub.add_parser("snapshot", parents=[shared], help="put a directory into the store")
    take.add_argument("directory", metavar="DIR")
    take.add_argument("--machine", metavar="NAME", help="whose snapshots these are; default: this host's name")
    take.add_argument("--codec", choices=["auto", "ans", "planes", "zstd", "raw"], default="auto")
    take.add_argument("--portable", action="store_true", help="use no codec that needs a GPU to decode")
    take.add_argument(
        "--parts", type=int, default=32, metavar="N", help="objects a full snapshot is cut into (1 to 32)"
    )
    take.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="leave out; may be repeated")
    take.add_argument("--parent", metavar="ID", help="compare with this one; default: the machine's latest")
    take.add_argument("--id", metavar="ID", help="continue the snapshot of this id that was interrupted")
    take.add_argument("--name", metavar="TEXT", help="what to call the snapshot")
    take.add_argument("--tag", action="append", default=[], metavar="TAG", help="for retention; may be repeated")
    hosts.add_arguments(take)
    take.add_argument("--skip-unreadable", action="store_true", help="leave out what cannot be read (exit code 3)")
    take.set_defaults(run="snapshot", engine=True)


def _add_restore(sub: Any, shared: argparse.ArgumentParser) -> None:
    back = sub.add_parser("restore", parents=[shared], help="make a directory from a snapshot")
    back.add_argument("id", metavar="ID")
    back.add_argument("directory", metavar="DIR")
    back.add_argument(
        "--overwrite", action="store_true",
        help="into a directory that is not empty: files that differ are replaced, and only what differs is fetched",
    )  # fmt: skip
    back.add_argument(
        "--cache", metavar="DIR", help="look for chunks there before fetching them, and keep them there; up to 100 GB"
    )
    back.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help="only what matches; may be repeated"
    )
    hosts.add_arguments(back)
    back.add_argument("--privileged", action="store_true", help="keep set-id bits and security attributes")
    back.set_defaults(run="restore", engine=True)


def _add_looking(sub: Any, shared: argparse.ArgumentParser) -> None:
    listing = sub.add_parser("ls", parents=[shared], help="list snapshots")
    listing.add_argument("--machine", metavar="NAME")
    listing.set_defaults(run="ls", engine=False)

    show = sub.add_parser("show", parents=[shared], help="everything about one snapshot")
    show.add_argument("id", metavar="ID")
    show.set_defaults(run="show", engine=False)

    verify = sub.add_parser("verify", parents=[shared], help="read a snapshot back and check every hash")
    verify.add_argument("id", metavar="ID")
    verify.add_argument("--full", action="store_true", help="decode every chunk too")
    verify.set_defaults(run="verify", engine=True)


def _add_convert(sub: Any, shared: argparse.ArgumentParser) -> None:
    convert = sub.add_parser("convert", parents=[shared], help="make a snapshot of the same that any CPU reads")
    convert.add_argument("id", metavar="ID")
    convert.add_argument(
        "--portable", action="store_true", help="code anew what needs a GPU to be decoded, and copy all else as it is"
    )
    convert.add_argument("--id", dest="new_id", metavar="ID", help="continue the conversion to the snapshot of this id")
    hosts.add_arguments(convert)
    convert.set_defaults(run="convert", engine=True)


def _add_delete(sub: Any, shared: argparse.ArgumentParser) -> None:
    delete = sub.add_parser("delete", parents=[shared], help="remove a snapshot; what others use is kept")
    delete.add_argument("id", metavar="ID")
    delete.add_argument(
        "--force", action="store_true", help="also one whose run has not ended: nothing may work on it any more"
    )
    delete.set_defaults(run="delete", engine=False)
