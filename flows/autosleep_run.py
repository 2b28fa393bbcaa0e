"""The course of autosleep: which machines to ask, and what to do about those that are idle."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from blocks.lookup import bare, machine_block, machine_blocks, store_block
from blocks.machines import Machine
from blocks.providers import OwnMachines
from flows import started_runs
from flows.slots import held_machines
from poorwill.control.machine import idleness
from poorwill.control.machine.costs import summed
from poorwill.control.machine.idleness import Limits, Observation, Verdict, Watch
from poorwill.errors import PoorwillError, Refused, UsageError
from poorwill.runs import Failure
from poorwill.snapshot import durations
from tasks import idle_watch
from tasks.events import MACHINE_IDLE, emit
from tasks.machine import ask_activity
from tasks.reports.machine_report import publish_idleness

AT_ONCE_MAX = 8
HIBERNATE = "hibernate/poorwill"
NEVER = "never"
NOTHING = "nothing"
REFUSAL_CHARS_MAX = 1000
_INSISTING = ("--writers ignore", "--allow-shrink")
"""What a refusal says may be added to go on all the same."""


@dataclass(frozen=True, slots=True)
class Request:
    """What autosleep was asked for. `idle_after_s` is for machines without a time of their own."""

    store: str
    idle_after_s: float
    dry_run: bool
    machine: str | None
    workspace: str
    limits: Limits
    window_s: float

    def idle_after_s_of(self, block: Machine) -> float | None:
        """None: never. UsageError if the block's own time is not a duration."""
        written = block.idle_after.strip().lower()
        if written == NEVER:
            return None
        return durations.seconds_of(written) if written else self.idle_after_s


@dataclass(frozen=True, slots=True)
class Row:
    """One machine: what it is, and what is done. `price_per_hour` in US dollars; `run`: the id of a hibernation."""

    machine: str
    instance: str
    state: str  # active, idle, unreachable, held, waking, asleep, left alone
    why: str
    done: str = NOTHING
    price_per_hour: float | None = None
    idle_s: float = 0.0
    idle_after_s: float | None = None
    due: bool = False
    run: str = ""
    error: str = ""
    kept_elsewhere: str | None = None  # the directory that its newest snapshot is of, if not the one to be kept

    def cells(self) -> dict[str, Any]:
        """For a table."""
        return {
            "machine": self.machine,
            "instance": self.instance,
            "$ per hour": "unknown" if self.price_per_hour is None else round(self.price_per_hour, 4),
            "state": self.state,
            "why": self.why,
            "idle for": durations.rough(self.idle_s) if self.state == "idle" else "",
            "may idle for": "" if self.idle_after_s is None else durations.rough(self.idle_after_s),
            "done": self.done,
        }


def judge_machines(request: Request) -> dict[str, Any]:
    """Judge every machine, and hibernate those that were idle for too long.

    Refused, after all machines were judged, if a hibernation could not be started.
    """
    with closing(store_block(request.store).open()):
        pass  # a wrong name fails here once, and not for each machine
    rows = sorted(_rows(request), key=lambda row: row.machine)
    publish_idleness([row.cells() for row in rows])
    for row in rows:
        log = get_run_logger().warning if row.error or row.state == "unreachable" else get_run_logger().info
        log("machine %s is %s: %s; done: %s", row.machine, row.state, row.why, row.error or row.done)
    result = _result(request, rows)
    if result["failed"]:
        errors = "; ".join(f"{row.machine}: {row.error}" for row in rows if row.error)
        message = f"{len(result['failed'])} idle machines still bill, as no hibernation could be started: {errors}"
        raise Refused(message, **result)
    return result


def _rows(request: Request) -> list[Row]:
    only = request.machine
    blocks = machine_blocks() if only is None else {bare(only): machine_block(only)}
    held = held_machines()
    rows, asked = [], {}
    for name, block in blocks.items():
        left = left_alone(name, block, request, held)
        if left is not None:
            _withdraw_hibernation(name, left)
            rows += [left] if _is_up(block) or only is not None else []
            continue
        run = f"autosleep-{flow_run.id}/{name}"
        asked[name] = ask_activity.submit(run, name, request.store, request.workspace, request.window_s)
    answers = {name: future.result(raise_on_failure=False) for name, future in asked.items()}
    return [*rows, *(_judge(name, blocks[name], answer, request) for name, answer in answers.items())]


def _is_up(block: Machine) -> bool:
    return bool(block.instance) and block.status != "asleep"


def left_alone(name: str, block: Machine, request: Request, held: set[str]) -> Row | None:
    """The row of a machine that is not asked, None for one that is. `held`: as held_machines returns them."""

    def row(state: str, why: str) -> Row:
        return Row(name, block.instance, state, why)

    if not _is_up(block):
        return row("asleep", f"in snapshot {block.snapshot or '(none)'}")
    if block.status == "waking":
        return row("waking", "it is being woken, or that was cut off: then wake it again")
    if isinstance(block.provider, OwnMachines):
        return row("left alone", "it is one of your own, which are never destroyed")
    if block.name in held:
        return row("held", "another run works on it")
    try:
        never = request.idle_after_s_of(block) is None
    except UsageError as error:
        return row("left alone", f"its block's idle_after: {error.message}")
    return row("left alone", "its block's idle_after is never") if never else None


def _withdraw_hibernation(name: str, left: Row) -> None:
    """Cancel one that still waits for a worker: it was meant for what the machine was when it was started."""
    before = idle_watch.read(name) if left.state != "held" else None
    run = started_runs.find(before.run) if before is not None and before.run else None
    if run is not None:
        started_runs.withdraw(run, f"{name} is {left.state}: {left.why}")


def _judge(name: str, block: Machine, answer: Any, request: Request) -> Row:
    """Judge one machine by its answer, act on that, and keep what the next run of autosleep needs."""
    before, now_s = idle_watch.read(name), time.time()
    idle_after_s = request.idle_after_s_of(block)
    assert idle_after_s is not None
    row = Row(name, block.instance, "unreachable", "", idle_after_s=idle_after_s)
    if before is not None and before.instance != block.instance:
        _withdraw_hibernation(name, replace(row, state="another instance", why=block.instance))
    if isinstance(answer, dict) and answer["instance"] == block.instance:
        seen = Observation.read(answer["activity"])
        verdict = idleness.judge(before, block.instance, seen, now_s, idle_after_s, request.limits)
        row = replace(
            row,
            state="active" if verdict.active else "idle",
            why=verdict.why,
            price_per_hour=answer["price_per_hour"],
            kept_elsewhere=answer["kept_elsewhere"],
            idle_s=verdict.idle_s,
        )
    else:
        watch = idleness.unreachable(before, block.instance, now_s)
        verdict = Verdict(True, _why_unreachable(answer), 0.0, False, watch)
        row = replace(row, why=verdict.why)
    row, watch = _act(row, verdict, request)
    idle_watch.write(name, replace(watch, run=row.run))
    return row


def _why_unreachable(answer: Any) -> str:
    if isinstance(answer, dict):
        return "it became another instance meanwhile"
    return answer.message if isinstance(answer, PoorwillError) else f"it could not be asked: {type(answer).__name__}"


def _act(row: Row, verdict: Verdict, request: Request) -> tuple[Row, Watch]:
    """Start, keep or withdraw the hibernation of a machine, at most one at a time.

    After one that failed the time begins anew: whatever was in its way gets as long to go away. One that was refused is
    told once, with the command that insists, until the machine is used again.
    """
    watch = verdict.watch
    run = started_runs.find(watch.run) if watch.run else None
    if run is not None:
        if run.state is None or run.state.is_final():
            refusal = _refusal(run)
            if refusal and not watch.refused:
                _announce(replace(row, error=_how_to_insist(row, request, refusal)), dry_run=False)
            return replace(row, done=_ended(run), idle_s=0.0), idleness.begun_anew(watch, refused=bool(refusal))
        if verdict.active and started_runs.withdraw(run, f"{row.machine} is {row.state}: {verdict.why}"):
            return replace(row, done=f"hibernation {run.name}, which waited for a worker, was cancelled"), watch
        return replace(row, done=f"hibernation {run.name} is under way", run=str(run.id)), watch
    if not verdict.due:
        return row, watch
    row = replace(row, due=True)
    try:
        row = _hibernate(row, watch, request)
    except PoorwillError as error:
        row = replace(row, error=error.message)
    # Once for each time that it is idle, and again when a dry run's words become deeds; no more after a refusal.
    if not watch.refused and (not watch.told or row.run):
        _announce(row, request.dry_run)
    return row, replace(watch, told=True)


def _ended(run: FlowRun) -> str:
    state = run.state
    message = f": {state.message[:300]}" if state is not None and state.message else ""
    return f"watched anew: hibernation {run.name} ended as {state.name if state is not None else 'unknown'}{message}"


def _refusal(run: FlowRun) -> str:
    """Why a hibernation would not destroy its machine; "" if it ended otherwise."""
    state = run.state
    found = Failure.parse(state.message or "") if state is not None and state.is_failed() else None
    return found.message if found is not None and found.type == Refused.__name__ else ""


def _how_to_insist(row: Row, request: Request, refusal: str) -> str:
    options = "".join(f" {option}" for option in _INSISTING if option in refusal)
    command = f"poorwill hibernate {row.machine} --store {request.store} --workspace {shlex.quote(request.workspace)}"
    return f"its hibernation was refused: {refusal[:REFUSAL_CHARS_MAX]}; by hand: {command}{options}"


def _hibernate(row: Row, watch: Watch, request: Request) -> Row:
    """Start one, as a run of its own. Two autosleeps read the same start of the idle time, and so start the same run.

    Refused if the machine's newest snapshot is of another directory, which destroying the machine would lose.
    """
    if row.kept_elsewhere is not None:
        raise Refused(
            f"its newest snapshot is of {row.kept_elsewhere}, and {request.workspace} would be kept: run autosleep for "
            "it by itself, with machine= and workspace=, or hibernate it once by hand"
        )
    if request.dry_run:
        return replace(row, done="nothing, as this is a dry run: it would be hibernated")
    chosen = {"store": request.store, "workspace": request.workspace, "writers": "stop"}
    run = started_runs.start(
        HIBERNATE,
        {"machine": row.machine, "instance": row.instance, **chosen},
        key=f"autosleep:{row.machine}:{row.instance}:{watch.idle_since_s:.3f}",
        name=f"hibernate-{row.machine}",
        tags=["autosleep"],
    )
    return replace(row, done=f"hibernation {run.name} was started", run=str(run.id))


def _announce(row: Row, dry_run: bool) -> None:
    idle, after = durations.rough(row.idle_s), durations.rough(row.idle_after_s or 0.0)
    message = f"machine {row.machine} is idle for {idle}, and may be for {after}: {row.why}; {row.error or row.done}"
    facts = {"instance": row.instance, "idle_s": round(row.idle_s), "price_per_hour": row.price_per_hour}
    emit(MACHINE_IDLE, "machine", row.machine, message, **facts, run=row.run, dry_run=dry_run)


def _result(request: Request, rows: Sequence[Row]) -> dict[str, Any]:
    due = [row for row in rows if row.due]
    return {
        "dry_run": request.dry_run,
        "machines": [asdict(row) for row in rows],
        "idle": [row.machine for row in due],
        "hibernating": [row.machine for row in rows if row.run],
        "unreachable": [row.machine for row in rows if row.state == "unreachable"],
        "failed": [row.machine for row in rows if row.error],
        "price_per_hour": summed(row.price_per_hour or 0.0 for row in rows),
        "idle_price_per_hour": summed(row.price_per_hour or 0.0 for row in due),
    }
