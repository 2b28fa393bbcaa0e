"""Arguments of the commands that remove snapshots by policy; apart from these, which take longer to import."""

from __future__ import annotations

import argparse
from typing import Any

GRACE = "48h"
_PERIODS = {"hourly": "hours", "daily": "days", "weekly": "weeks", "monthly": "months", "yearly": "years"}


def add_to(sub: Any, shared: argparse.ArgumentParser) -> None:
    """Their arguments."""
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
        default=GRACE,
        metavar="TIME",
        help=f"how long removed snapshots can be brought back; default {GRACE}",
    )
    keep.add_argument("--dry-run", action="store_true", help="only say what would be done")
    keep.set_defaults(module="removal", run="retention", engine=False)

    back = sub.add_parser("undelete", parents=[shared], help="bring a snapshot back from the trash")
    back.add_argument("id", metavar="ID")
    back.set_defaults(module="removal", run="undelete", engine=False)
