"""Arguments of the commands that need a Prefect server."""

from __future__ import annotations

import argparse
from typing import Any

from poorwill.cli import installed

COMMANDS = {
    "hibernate": "put a machine to sleep: snapshot, prove, destroy",
    "wake": "restore a snapshot onto a machine, new or there",
    "replicate": "wake a snapshot on several new machines",
    "generate": "make a video from an image",
    "machines": "list machines, awake and asleep",
    "runs": "list runs; follow or cancel one",
}
SERVER = "The server: PREFECT_API_URL with PREFECT_API_AUTH_STRING, else the local stack that `poorwill up` started."


def add_to(commands: Any, command: str) -> None:
    """All of these commands, for the list of commands; with its arguments only the one that is called."""
    for name, said in {**COMMANDS, **installed.COMMANDS}.items():
        one = commands.add_parser(name, help=said)
        if name == command:
            _fill(name, one)


def _fill(command: str, parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = COMMANDS[command], SERVER
    parser.set_defaults(module="server_commands", run=command, engine=False)
    {"machines": _machines, "runs": _runs}.get(command, _flow)(command, parser)


def _flow(command: str, parser: argparse.ArgumentParser) -> None:
    from poorwill.cli.flow_parameters import FLOWS

    for parameter in FLOWS[command]:
        parameter.add_to(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=JSON", help="any other parameter of the flow"
    )
    parser.add_argument("--detach", action="store_true", help="print the run's id and leave; the run goes on")
    parser.add_argument("--idempotency-key", metavar="KEY", help="the same key is the same run")
    _json(parser)
    parser.set_defaults(run="start")


def _machines(command: str, parser: argparse.ArgumentParser) -> None:
    _json(parser)
    parser.set_defaults(module="listings")


def _runs(command: str, parser: argparse.ArgumentParser) -> None:
    _json(parser)
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many that are over (1 to 200)")
    parser.add_argument("--flow", metavar="FLOW", help="only of this flow, like hibernate")
    parser.set_defaults(module="listings")
    actions: Any = parser.add_subparsers(dest="action", metavar="follow|cancel")
    for action, said in (
        ("follow", "show a run's progress until it ends; its exit code is the run's"),
        ("cancel", "ask a run to stop, and wait for that"),
    ):
        one = actions.add_parser(action, help=said, description=said, epilog=SERVER)
        one.add_argument("id", metavar="ID")
        _json(one, argparse.SUPPRESS)  # or it would undo the one that stands before
        one.set_defaults(module="server_commands", run=action)


def _json(parser: argparse.ArgumentParser, default: Any = False) -> None:
    parser.add_argument(
        "--json", action="store_true", default=default, help="one JSON object a line; the last has the totals"
    )
