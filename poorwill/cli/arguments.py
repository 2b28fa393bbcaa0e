"""The arguments of every command; apart from the commands themselves, which take longer to import."""

from __future__ import annotations

import argparse
from typing import Any

from poorwill import __version__, defaults
from poorwill.cli import hosts
from poorwill.snapshot import limits
from poorwill.snapshot.choices import CODECS

EXIT_CODES = """exit codes: 0 done, 1 failed, 2 usage, 3 done but something was left out, 4 corrupt or unverifiable,
5 not found, 6 refused (would overwrite, would lose), 7 store or network, 130 interrupted"""
_PERIODS = {"hourly": "hours", "daily": "days", "weekly": "weeks", "monthly": "months", "yearly": "years"}


def parser(command: str = "") -> argparse.ArgumentParser:
    """The whole parser; without the commands that need a server if `command` is another, which so starts faster."""
    top = argparse.ArgumentParser(
        prog="poorwill", description="Snapshots of workspaces full of model weights.", epilog=EXIT_CODES
    )
    top.add_argument("--version", action="version", version=f"poorwill {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--store", required=True, metavar="URL",
        help="file:///path or s3://bucket/prefix; endpoint and credentials from the usual AWS variables and files",
    )  # fmt: skip
    shared.add_argument("--json", action="store_true", help="one JSON object a line; the last has the totals")
    sub: Any = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for add in (_add_snapshot, _add_restore, _add_reading, _add_convert, _add_delete, _add_retention, _add_undelete):
        add(sub, shared)
    if command not in sub.choices:
        from poorwill.cli import flow_arguments

        flow_arguments.add_to(sub, command)
    return top


def _add_snapshot(sub: Any, shared: argparse.ArgumentParser) -> None:
    take = sub.add_parser("snapshot", parents=[shared], help="put a directory into the store")
    take.add_argument("directory", metavar="DIR")
    take.add_argument("--machine", metavar="NAME", help="whose snapshots these are; default: this host's name")
    take.add_argument("--codec", choices=CODECS, default=defaults.CODEC)
    take.add_argument("--portable", action="store_true", help="use no codec that needs a GPU to decode")
    take.add_argument(
        "--parts",
        type=int,
        default=limits.PARTS,
        metavar="N",
        help=f"objects a full snapshot is cut into (1 to {limits.PARTS})",
    )
    take.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="leave out; may be repeated")
    take.add_argument("--parent", metavar="ID", help="compare with this one, or none; default: the machine's latest")
    take.add_argument("--id", metavar="ID", help="continue the snapshot of this id that was interrupted")
    take.add_argument("--name", metavar="TEXT", help="what to call the snapshot")
    take.add_argument("--tag", action="append", default=[], metavar="TAG", help="for retention; may be repeated")
    hosts.add_arguments(take)
    take.add_argument("--skip-unreadable", action="store_true", help="leave out what cannot be read (exit code 3)")
    take.add_argument(
        "--allow-shrink", action="store_true",
        help="it is meant that most is gone since the last snapshot: retention need not keep that one",
    )  # fmt: skip
    take.set_defaults(module="snapshot", run="snapshot", engine=True)


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
    back.set_defaults(module="restore", run="restore", engine=True)


def _add_reading(sub: Any, shared: argparse.ArgumentParser) -> None:
    listing = sub.add_parser("ls", parents=[shared], help="list snapshots")
    listing.add_argument("--machine", metavar="NAME")
    listing.set_defaults(module="ls", run="ls", engine=False)

    show = sub.add_parser("show", parents=[shared], help="everything about one snapshot")
    show.add_argument("id", metavar="ID")
    show.set_defaults(module="ls", run="show", engine=False)

    verify = sub.add_parser("verify", parents=[shared], help="read a snapshot back and check every hash")
    verify.add_argument("id", metavar="ID")
    verify.add_argument("--full", action="store_true", help="decode every chunk too")
    verify.set_defaults(module="verify", run="verify", engine=True)


def _add_convert(sub: Any, shared: argparse.ArgumentParser) -> None:
    convert = sub.add_parser("convert", parents=[shared], help="make a snapshot of the same that any CPU reads")
    convert.add_argument("id", metavar="ID")
    convert.add_argument(
        "--portable", action="store_true", help="code anew what needs a GPU to be decoded, and copy all else as it is"
    )
    convert.add_argument("--id", dest="new_id", metavar="ID", help="continue the conversion to the snapshot of this id")
    hosts.add_arguments(convert)
    convert.set_defaults(module="verify", run="convert", engine=True)


def _add_delete(sub: Any, shared: argparse.ArgumentParser) -> None:
    delete = sub.add_parser("delete", parents=[shared], help="remove a snapshot; what others use is kept")
    delete.add_argument("id", metavar="ID")
    delete.add_argument(
        "--force", action="store_true", help="also one whose run has not ended: nothing may work on it any more"
    )
    delete.set_defaults(module="removal", run="delete", engine=False)


def _add_retention(sub: Any, shared: argparse.ArgumentParser) -> None:
    keep = sub.add_parser(
        "retention", parents=[shared], help="keep what a policy names, and remove the other snapshots",
        description="At least one --keep is needed; a snapshot that any of them keeps is kept, for each machine by "
        "itself. Others go to the trash, and for good by a later run, after the grace period. Only Prefect knows which "
        "machines are asleep: beside a server, use the flow of this name.",
    )  # fmt: skip
    keep.add_argument("--machine", metavar="NAME", help="judge the snapshots of this machine alone")
    keep.add_argument("--keep-last", type=int, default=0, metavar="N", help="keep the newest N")
    for name, periods in _PERIODS.items():
        what = f"keep the newest of each of the N newest {periods} that have one"
        keep.add_argument(f"--keep-{name}", type=int, default=0, metavar="N", help=what)
    keep.add_argument(
        "--keep-within", default="", metavar="TIME", help="keep what is at most so much older than the newest, as 14d"
    )
    keep.add_argument(
        "--keep-tag", action="append", default=[], metavar="TAG", help="keep what has it; may be repeated"
    )
    keep.add_argument(
        "--grace",
        default=defaults.TRASH_GRACE,
        metavar="TIME",
        help=f"how long removed snapshots can be brought back; default {defaults.TRASH_GRACE}",
    )
    keep.add_argument("--dry-run", action="store_true", help="only say what would be done")
    keep.set_defaults(module="removal", run="retention", engine=False)


def _add_undelete(sub: Any, shared: argparse.ArgumentParser) -> None:
    back = sub.add_parser("undelete", parents=[shared], help="bring a snapshot back from the trash")
    back.add_argument("id", metavar="ID")
    back.set_defaults(module="removal", run="undelete", engine=False)
