"""Ask a machine what goes on there."""

from __future__ import annotations

from typing import Any

from prefect import task

from blocks.lookup import machine_block
from poorwill.control.records import catalog
from poorwill.engine.protocol.requests import Activity
from poorwill.errors import NotFound, PoorwillError
from tasks.retries import policy
from tasks.sessions import Live, sessions

DEADLINE_S = 90.0
"""The window, and three answers of an nvidia-smi that takes its time."""
RETRIES = 1
"""A machine that does not answer is asked again by the next run of the flow."""


@task(name="ask_activity", task_run_name="ask-{machine}", **{**policy(), "retries": RETRIES})
def ask_activity(run: str, machine: str, store: str, workspace: str, window_s: float) -> dict[str, Any]:
    """The machine's `activity` as its engine measures it, and its `price_per_hour`, None if it is unknown.

    `kept_elsewhere` is the directory of the machine's newest snapshot, if that is not `workspace`. The session is
    closed afterwards: an engine that stays would be one more thing that runs there.

    Args:
        run: the id this process keeps the connection under.
        machine: name of a machine block.
        store: name of a store block.
        workspace: path on the machine.
        window_s: for how long to look.
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
            "activity": live.session.request(Activity(window_s), deadline_s=DEADLINE_S),
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
