"""An operator's own command on the machine: to stop services before a sleep, to start them after."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile

from poorwill.engine.protocol.answers import CommandEnd
from poorwill.engine.protocol.context import Context
from poorwill.errors import UsageError

OUTPUT_BYTES_MAX = 16 << 10
POLL_S = 0.05


def run(command: str, workspace: str, context: Context, umask: int = -1) -> CommandEnd:
    """Run a command with /bin/sh in `workspace`. Returns how it ended, and the end of its output.

    When the request is cancelled or its deadline passes it is killed, with all its children. What it leaves
    running in the background goes on. umask: its file mode mask; -1: that of this process. UsageError if the workspace
    is not a directory.
    """
    # A file and not a pipe: a service the command starts may keep it open for ever.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command], cwd=workspace, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, umask=umask,
            )  # fmt: skip
        except OSError as error:
            raise UsageError(f"no command can be run in {workspace}: {error.strerror}") from None
        try:
            status = _wait(process, context)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            raise
        size = os.fstat(output.fileno()).st_size
        output.seek(max(0, size - OUTPUT_BYTES_MAX))
        return CommandEnd(status, output.read(OUTPUT_BYTES_MAX).decode("utf-8", "replace").strip())


def _wait(process: subprocess.Popen[bytes], context: Context) -> int:
    while True:
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            context.check()
