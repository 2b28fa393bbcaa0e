"""An operator's own command on the machine: to stop services before a sleep, to start them after."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from poorwill.errors import DeadlineExceeded, EngineFailed
from poorwill.providers.base import LocalEndpoint
from tasks import sessions

TIMEOUT_S = 600.0
OUTPUT_BYTES_MAX = 16 << 10
# Nothing else of the control side's environment: it holds credentials.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "USER", "LOGNAME", "TMPDIR", "TZ")


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
    output = run_in(live.endpoint, live.workspace, command, timeout_s)
    if output:
        get_run_logger().info("the command said:\n%s", output)
    return output


def run_in(endpoint: LocalEndpoint, workspace: str, command: str, timeout_s: float) -> str:
    """Run a command on a local machine. DeadlineExceeded, EngineFailed."""
    environment = {**{k: v for k in _KEPT if (v := os.environ.get(k)) is not None}, **endpoint.environment}
    # A file and not a pipe: a service the command starts may keep it open for ever.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=workspace,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            raise DeadlineExceeded(f"the command did not end within {timeout_s:.0f} s and was killed") from None
        size = os.fstat(output.fileno()).st_size
        output.seek(max(0, size - OUTPUT_BYTES_MAX))
        said = output.read(OUTPUT_BYTES_MAX).decode("utf-8", "replace").strip()
    if status != 0:
        last = said.splitlines()[-1][:300] if said else "it said nothing"
        raise EngineFailed(f"the command ended with status {status}: {last}")
    return said
