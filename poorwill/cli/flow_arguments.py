"""Arguments of the commands that need a Prefect server: the parameters of flows, by the same names."""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

from poorwill import defaults
from poorwill.cli import plugins
from poorwill.errors import UsageError
from poorwill.snapshot.choices import CODECS, ON_UNREADABLE, VERIFY_MODES, WRITERS

COMMANDS = {
    "hibernate": "put a machine to sleep: snapshot, prove, destroy",
    "wake": "restore a snapshot onto a machine, new or there",
    "replicate": "wake a snapshot on several new machines",
    "generate": "make a video from an image",
    "machines": "list machines, awake and asleep",
    "runs": "list runs; follow or cancel one",
}
SERVER = "The server: PREFECT_API_URL with PREFECT_API_AUTH_STRING, else the local stack that `poorwill up` started."


class Parameter(NamedTuple):
    """One parameter of a flow. kind: text, int, float, list (may be repeated), on or off (a flag).

    A parameter that is not given is not sent: the deployment's default holds. `option` is another name than the
    parameter's; one that begins without a dash is positional.
    """

    name: str
    kind: str
    help: str
    option: str = ""
    choices: tuple[str, ...] = ()
    required: bool = False

    @property
    def flag(self) -> str:
        return self.option or "--" + self.name.replace("_", "-")

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        given: dict[str, Any] = {"help": self.help, "default": argparse.SUPPRESS}
        if self.kind in ("on", "off"):
            given |= {"action": "store_true" if self.kind == "on" else "store_false"}
        elif self.choices:
            given |= {"choices": self.choices}
        else:
            given |= {"metavar": _METAVARS.get(self.kind, "TEXT")}
        if self.kind in _TYPES:
            given |= {"type": _TYPES[self.kind]}
        if self.kind == "list":
            given |= {"action": "append"}
        if self.flag.startswith("-"):
            parser.add_argument(self.flag, dest=self.name, required=self.required, **given)
        else:
            parser.add_argument(self.name, **{**given, "metavar": self.flag})


_TYPES: dict[str, Any] = {"int": int, "float": float}
_METAVARS = {"int": "N", "float": "X"}

_STORE = Parameter("store", "text", f"name of the store's block; default: {defaults.STORE}")
_PLACE = (
    Parameter("provider", "text", "name of the provider's block, for a new machine"),
    Parameter("gpu", "text", "model of GPU a new machine must have"),
    Parameter("gpu_count", "int", "how many of them"),
    Parameter("region", "text", "where a new machine must be"),
    Parameter("price_per_hour_max", "float", "what a new machine may cost, in US dollars"),
    Parameter("disk_gb", "int", "disk of a new machine; default: what the snapshot needs"),
    Parameter("download_mbps_min", "float", "bandwidth of a new machine, in megabits per second"),
    Parameter("reliability_min", "float", "from 0 to 1, as its provider counts"),
    Parameter("spot", "on", "take a machine that the provider can take away, for less money"),
)
_WAKING = (
    _STORE,
    *_PLACE,
    Parameter("workspace", "text", f"where to restore to; default: {defaults.WORKSPACE}"),
    Parameter("include", "list", "only what matches; may be repeated"),
    Parameter("start_command", "text", "shell command to run in the workspace afterwards"),
    Parameter("dry_run", "on", "only show what would be done, and what machines are offered"),
)

FLOWS: dict[str, tuple[Parameter, ...]] = {
    "hibernate": (
        Parameter("machine", "text", "name of the machine's block", "MACHINE"),
        _STORE,
        Parameter("workspace", "text", f"the directory to keep; default: {defaults.WORKSPACE}"),
        Parameter("name", "text", "a name for the snapshot"),
        Parameter("tags", "list", "a tag for the snapshot; may be repeated", "--tag"),
        Parameter("destroy", "off", "keep the machine", "--no-destroy"),
        Parameter("codec", "text", f"how to compress; default: {defaults.CODEC}", choices=CODECS),
        Parameter("portable", "on", "use no codec that needs a GPU to decode"),
        Parameter("verify", "text", f"how much is read back; default: {defaults.VERIFY}", choices=VERIFY_MODES),
        Parameter("parts", "int", "objects to send in parallel (1 to 32)"),
        Parameter("exclude", "list", "leave out what matches; may be repeated"),
        Parameter("parent", "text", "snapshot to borrow unchanged data from, or none; default: the machine's latest"),
        Parameter("snapshot_id", "text", "continue the snapshot of this id that was cut off"),
        Parameter("stop_command", "text", "shell command to run in the workspace before"),
        Parameter("instance", "text", "only if the machine is this instance"),
        Parameter("on_unreadable", "text", "what files that cannot be read do", choices=ON_UNREADABLE),
        Parameter("writers", "text", f"processes that write there still; default: {defaults.WRITERS}", choices=WRITERS),
        Parameter("allow_shrink", "on", "destroy it although most of the workspace is gone since the last snapshot"),
    ),
    "wake": (
        Parameter("snapshot", "text", "an id, `latest` with --machine, or latest:MACHINE", "SNAPSHOT"),
        Parameter("machine", "text", "name of the machine's block; awake: restore onto it"),
        *_WAKING,
        Parameter("overwrite", "on", "replace files that are on the machine and differ"),
        Parameter("cache", "text", "directory on the machine where chunks are looked for and kept"),
    ),
    "replicate": (
        Parameter("snapshot", "text", "an id, or latest:MACHINE", "SNAPSHOT"),
        Parameter("count", "int", "how many machines (1 to 64)", required=True),
        Parameter("name", "text", "what the machines' names begin with; default: the name of the snapshot's machine"),
        *_WAKING,
    ),
    "generate": (
        Parameter("image_url", "text", "the first frame: an http, https, data or s3 URL", required=True),
        Parameter("prompt", "text", "what is to happen", required=True),
        Parameter("negative_prompt", "text", "what is not to be seen"),
        Parameter("model", "text", f"name of the video model's block; default: {defaults.VIDEO_MODEL}"),
        Parameter("seed", "int", "the same seed gives the same video"),
        Parameter("num_frames", "int", "how many frames"),
        Parameter("height", "int", "in pixels"),
        Parameter("width", "int", "in pixels"),
        Parameter("steps", "int", "denoising steps"),
        Parameter("guidance", "float", "how closely the prompt is followed"),
        Parameter("fps", "float", "frames per second"),
        Parameter("timeout_s", "int", "stop after so many seconds; default: 3600"),
        Parameter("media", "text", f"name of the media block; default: {defaults.MEDIA}"),
        Parameter("webhook_url", "text", "where to post how it ended"),
    ),
}


def add_to(commands: Any, command: str) -> None:
    """All of these commands, for the list of commands; with its arguments only the one that is called."""
    for name, summary in {**COMMANDS, **plugins.COMMANDS}.items():
        one = commands.add_parser(name, help=summary)
        if name == command:
            _fill(name, one)


def _fill(command: str, parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = COMMANDS[command], SERVER
    parser.set_defaults(module="server_commands", run=command, engine=False)
    {"machines": _machines, "runs": _runs}.get(command, _flow)(command, parser)


def _flow(command: str, parser: argparse.ArgumentParser) -> None:
    for parameter in FLOWS[command]:
        parameter.add_to(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=JSON", help="any other parameter of the flow"
    )
    parser.add_argument("--detach", action="store_true", help="print the run's id and leave; the run goes on")
    parser.add_argument("--idempotency-key", metavar="KEY", help="the same key is the same run")
    _add_json(parser)
    parser.set_defaults(run="start")


def _machines(command: str, parser: argparse.ArgumentParser) -> None:
    _add_json(parser)
    parser.set_defaults(module="listings")


def _runs(command: str, parser: argparse.ArgumentParser) -> None:
    _add_json(parser)
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many that are over (1 to 200)")
    parser.add_argument("--flow", metavar="FLOW", help="only of this flow, like hibernate")
    parser.set_defaults(module="listings")
    actions: Any = parser.add_subparsers(dest="action", metavar="follow|cancel")
    for action, summary in (
        ("follow", "show a run's progress until it ends; its exit code is the run's"),
        ("cancel", "ask a run to stop, and wait for that"),
    ):
        one = actions.add_parser(action, help=summary, description=summary, epilog=SERVER)
        one.add_argument("id", metavar="ID")
        _add_json(one, argparse.SUPPRESS)  # or it would undo the one that stands before
        one.set_defaults(module="server_commands", run=action)


def _add_json(parser: argparse.ArgumentParser, default: Any = False) -> None:
    parser.add_argument(
        "--json", action="store_true", default=default, help="one JSON object a line; the last has the totals"
    )


def given(flow: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The parameters that were given, and --set's. UsageError."""
    parameters = {p.name: getattr(arguments, p.name) for p in FLOWS[flow] if hasattr(arguments, p.name)}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        name = name.replace("-", "_")
        if not equals or not name.isidentifier():
            raise UsageError(f"--set '{text[:80]}': expected NAME=JSON, like --set parts=8")
        if name in parameters:
            raise UsageError(f"--set {name}: it is given already")
        parameters[name] = _json(name, value)
    if any(p.name == "store" for p in FLOWS[flow]):
        parameters.setdefault("store", defaults.STORE)
    return parameters


def _json(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        quoted = json.dumps(value[:80])
        raise UsageError(f"--set {name}={value[:80]} is not JSON: a text is written --set '{name}={quoted}'") from None
