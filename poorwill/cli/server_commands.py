"""The commands that need a Prefect server. Each returns its exit code and raises PoorwillError."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from typing import Any

from poorwill.cli import address, flow_arguments, run_report
from poorwill.cli.following import Following, Look
from poorwill.cli.output import LEFT_OUT, Output
from poorwill.cli.run_bars import Bars, facts
from poorwill.cli.runs import Run, Runs, checked_run_id
from poorwill.cli.server import Server
from poorwill.errors import Cancelled, DeadlineExceeded, PermanentError, PoorwillError, Refused
from poorwill.remote.base import Host
from poorwill.runs import Status
from poorwill.snapshot import ids

ANSWER_TIMEOUT_S = 60.0
CANCEL_TIMEOUT_S = 120.0
_TAKEN = ("message", "totals", "quiet")  # parameters of Output.done, which no artifact's name may replace


def start(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    """Run a flow, and follow it. Mistakes in the call are reported before a run exists."""
    flow = str(arguments.command)
    parameters = flow_arguments.given(flow, arguments)
    runs = connected()
    deployment = runs.deployment(flow)
    if flow == "hibernate":
        # Printed before the run begins, in case this program is killed.
        parameters.setdefault("snapshot_id", ids.new_snapshot_id())
    deployment.check(parameters)
    output.hint = "it is not known whether a run was created: poorwill runs"
    try:
        run = runs.create(deployment, parameters, arguments.idempotency_key)
    except PermanentError:
        output.hint = ""
        raise
    page = runs.server.address.run_page(run.id)
    known = {name: run.parameters[name] for name in ("machine", "snapshot_id") if run.parameters.get(name)}
    output.event("begun", run_id=run.id, flow=flow, page=page, **known)
    if arguments.detach:
        output.done(run.id, {}, run_id=run.id, flow=flow, status=run.status, page=page, **known)
        return 0
    if not arguments.json:
        print(f"poorwill: {flow} is run {run.id}: {page}", file=sys.stderr)
    return _followed(runs, run, flow, arguments, output)


def follow(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    run_id = checked_run_id(arguments.id)
    runs = connected()
    run = runs.read(run_id)
    flow = runs.flow_names([run.flow_id]).get(run.flow_id, "")
    return _followed(runs, run, flow, arguments, output)


def cancel(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    """Ask a run to stop, and wait until it has. Refused if it ended otherwise."""
    run_id = checked_run_id(arguments.id)
    runs = connected()
    run = runs.cancel(run_id)
    output.hint = f"follow it: poorwill runs follow {run.id}"
    ends_s = time.monotonic() + CANCEL_TIMEOUT_S
    while not run.status.is_over:
        if time.monotonic() > ends_s:
            raise DeadlineExceeded(f"run {run.id} was asked to stop, and has not in {CANCEL_TIMEOUT_S:.0f} s")
        time.sleep(0.5)
        run = runs.read(run.id)
    output.hint = ""
    if run.status is not Status.CANCELLED:
        raise Refused(f"run {run.id} is over and {run.status}: there is nothing to cancel")
    output.done(f"run {run.id} is cancelled", {}, run_id=run.id, status=run.status)
    return 0


def connected() -> Runs:
    """The runs of the server that the environment names. UsageError, Refused."""
    return Runs(Server(address.find(os.environ)))


def _followed(runs: Runs, run: Run, flow: str, arguments: argparse.Namespace, output: Output) -> int:
    """Follow the run to its end. An interrupt leaves it running, with a hint how to follow it again."""
    output.hint = (
        f"run {run.id} goes on. Follow it: poorwill runs follow {run.id}. Cancel it: poorwill runs cancel {run.id}"
    )
    following = Following(runs, run.id)
    try:
        ended = _watched(following, arguments.json, output)
    except KeyboardInterrupt as interrupt:
        if not _cancel_wanted(interrupt, run, arguments.json):
            raise
        runs.cancel(run.id)
        ended = _watched(following, arguments.json, output)
    output.hint = f"the run's page: {runs.server.address.run_page(run.id)}"
    return _ended(runs, ended, flow, output)


def _watched(following: Following, json_lines: bool, output: Output) -> Run:
    if json_lines or not sys.stderr.isatty():
        return following.end(_Events(output))
    with Bars() as bars:
        return following.end(bars)


def _cancel_wanted(interrupt: KeyboardInterrupt, run: Run, json_lines: bool) -> bool:
    """Ask once, after Ctrl-C in a terminal. No answer means no."""
    if type(interrupt) is not KeyboardInterrupt or json_lines or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(
        f"\npoorwill: run {run.id} goes on without this program. Cancel it? [y/N] ", end="", file=sys.stderr, flush=True
    )
    ready, _, _ = select.select([sys.stdin], [], [], ANSWER_TIMEOUT_S)
    return bool(ready) and sys.stdin.readline().strip().lower() in ("y", "yes")


def _ended(runs: Runs, run: Run, flow: str, output: Output) -> int:
    if run.status is Status.FAILED:
        error = run_report.failure(run.name, run.state_type, run.message)
        error.facts.setdefault("run_id", run.id)
        raise error
    if run.status is Status.CANCELLED:
        raise Cancelled(f"run {run.id} ({run.name}) was cancelled{f': {run.message}' if run.message else ''}")
    left = run_report.newest(runs.artifacts([run.id], "markdown", "table"))
    figures, links = run_report.facts(left), run_report.links(left)
    output.lines(run_report.text(left))
    own = {"run_id": run.id, "flow": flow, "status": run.status, "page": runs.server.address.run_page(run.id)}
    fields = {**figures, **links, **own, "tables": run_report.tables(left)}
    totals = {name: value for name, value in figures.items() if type(value) is int}
    output.done(
        f"{run.name} is done", totals, quiet=bool(left),
        **{name: value for name, value in fields.items() if name not in _TAKEN},
    )  # fmt: skip
    return LEFT_OUT if figures.get("left_out_count") else 0


class _Events:
    """A followed run for programs: one line for each change."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._state = ""
        self._progress: dict[str, Any] = {}
        self._away = False

    def look(self, look: Look) -> None:
        self._away = False
        state = f"{look.run.status} {look.run.state} {look.note}"
        if state != self._state:
            self._state = state
            self._output.event("state", status=look.run.status, state=look.run.state, note=look.note)
        progress = facts(look)
        if progress != self._progress and (progress["step"] or progress["measures"]):
            self._progress = progress
            self._output.event("progress", **progress)

    def away(self, error: PoorwillError) -> None:
        if not self._away:
            self._away = True
            self._output.event("away", type=type(error).__name__, message=error.message)
