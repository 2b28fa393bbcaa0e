"""What is asked of a machine: to be reached, to run an operator's command, and what goes on there."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.lookup import machine_block
from poorwill.control.records import catalog
from poorwill.engine.protocol.requests import Activity
from poorwill.errors import NotFound, PoorwillError
from poorwill.snapshot import fields
from tasks.retries import policy
from tasks.sessions import Live, sessions

COMMAND_TIMEOUT_S = 600.0
ACTIVITY_DEADLINE_S = 90.0
"""The window, and three answers of an nvidia-smi that takes its time."""


@task(name="open_machine", **policy())
def open_machine(run: str, machine: str, store: str, workspace: str) -> dict[str, Any]:
    """Connect, start the engine or keep the one that runs, agree on the protocol. Returns the machine's facts."""
    live = sessions.reach(run, machine, store, workspace)
    facts = fields.write(live.session.facts)
    return {**facts, "instance": live.instance, "machine": live.machine, "workspace": live.workspace}


@task(name="run_command", cache_policy=NO_CACHE, persist_result=False)
def run_command(run: str, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """Run a command of /bin/sh in the workspace; not retried. Returns the end of its output.

    After `timeout_s` it is killed, with all its children. What it leaves running in the background goes on.
    EngineFailed if its exit status is not 0.
    """
    live = sessions.get(run)
    output = live.session.command(command, live.workspace, timeout_s)
    if output:
        get_run_logger().info("the command said:\n%s", output)
    return output


# A machine that does not answer is asked again by the next run of the flow.
@task(name="ask_activity", task_run_name="ask-{machine}", **{**policy(), "retries": 1})
def ask_activity(run: str, machine: str, store: str, workspace: str, window_s: float) -> dict[str, Any]:
    """The machine's `activity` as its engine measures it for `window_s`, and its `price_per_hour`, None if unknown.

    `kept_elsewhere` is the directory of the machine's newest snapshot, if that is not `workspace`. The session is
    closed afterwards: an engine that stays would be one more thing that runs there.
    """
    try:
        price = machine_block(machine).price_per_hour()
    except NotFound as error:
        raise NotFound(f"machine {machine}: {error.message}: correct its block, or wake it again") from None
    except PoorwillError:
        price = None
    try:
        live = sessions.reach(run, machine, store, workspace)
        return {
            "activity": live.session.request(Activity(window_s), deadline_s=ACTIVITY_DEADLINE_S),
            "instance": live.instance,
            "price_per_hour": price,
            "kept_elsewhere": _kept_elsewhere(live, workspace),
        }
    finally:
        sessions.close(run)


def _kept_elsewhere(live: Live, workspace: str) -> str | None:
    newest = catalog.latest(live.store, live.machine)
    if newest is None:
        return None
    try:
        kept = catalog.read(live.store, live.machine, newest).workspace
    except NotFound:
        return None  # removed since it was listed
    # A machine that is a directory of this host has that before all of its paths, and another one after each wake.
    same = kept == workspace if live.workspace == workspace else kept.endswith(workspace)
    return None if same else kept
