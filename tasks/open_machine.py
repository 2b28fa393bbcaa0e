"""Step 1: reach the machine and start its engine."""

from __future__ import annotations

from typing import Any

from prefect import task

from poorwill.snapshot import fields
from tasks.retries import policy
from tasks.sessions import sessions


@task(name="open_machine", **policy())
def open_machine(run: str, machine: str, store: str, workspace: str) -> dict[str, Any]:
    """Connect, start the engine or keep the one that runs, agree on the protocol. Returns the machine's facts.

    Args:
        run: the id this process keeps the connection under.
        machine: name of a machine block.
        store: name of a store block.
        workspace: path on the machine.
    """
    live = sessions.reach(run, machine, store, workspace)
    facts = fields.write(live.session.facts)
    return {**facts, "instance": live.instance, "machine": live.machine, "workspace": live.workspace}
