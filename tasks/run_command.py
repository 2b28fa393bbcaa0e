"""An operator's own command on the machine: to stop services before a sleep, to start them after."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.sessions import sessions

TIMEOUT_S = 600.0


@task(name="run_command", cache_policy=NO_CACHE, persist_result=False)
def run_command(run: str, command: str, timeout_s: float = TIMEOUT_S) -> str:
    """Run a shell command in the workspace; not retried. Returns the end of its output.

    What it leaves running in the background goes on. EngineFailed if its exit status is not 0.

    Args:
        run: the id of the connection.
        command: for /bin/sh.
        timeout_s: then it is killed, with all its children.
    """
    live = sessions.get(run)
    output = live.session.command(command, live.workspace, timeout_s)
    if output:
        get_run_logger().info("the command said:\n%s", output)
    return output
