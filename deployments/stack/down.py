"""Ends the parts of the local stack, so that what they do is finished or goes back into the queue."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from deployments.servers.daemon import Daemon
from deployments.stack import secret_files
from deployments.stack.parts import left_running
from poorwill.errors import Refused

STOP_TIMEOUT_S = 15.0
GIVE_BACK_S = 30.0
"""What a worker may take, after draining, to give its runs back."""
AGAIN_S = 2.0
QUIET_S = 5.0
"""A worker without runs has ended by then."""
ORDER = ("api", "worker", "prefect", "s3")
"""Nothing new comes in, runs end, and only then goes what they need."""
FOLDERS = ("run", "logs", "prefect", "s3", "machines", "model", ".model-draft", "state", "scratch")
FILES = (secret_files.STACK, secret_files.TOKENS, secret_files.AUTH, secret_files.WEBHOOK_SECRET)
Say = Callable[[str], None]


def down(folder: Path, *, drain_timeout_s: float, say: Say) -> None:
    """SIGTERM, a wait, SIGKILL. A worker first has `drain_timeout_s` to let its runs end. Idempotent. PoorwillError."""
    running = {part.name: part for part in left_running(folder)}
    (folder / secret_files.STACK).unlink(missing_ok=True)
    for name in ORDER:
        if part := running.get(name):
            _end(part, drain_timeout_s if name == "worker" else 0.0, say)
    say("nothing was running" if not running else "everything has ended")


def purge(folder: Path, say: Say) -> None:
    """Remove what the stack keeps in the folder, and the folder if that was all. Refused if no stack was there: the
    folder's name comes from the environment, and the names in it are those of many a home."""
    mark = folder / secret_files.S3_KEYS
    if not mark.is_file() and any((folder / name).exists() for name in FOLDERS):
        raise Refused(f"{folder} is not the folder of a stack (it has no {mark.name}): nothing was removed")
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (*FILES, mark.name):
        (folder / name).unlink(missing_ok=True)
    try:
        folder.rmdir()
        say(f"{folder} was removed")
    except OSError:
        say(f"the data in {folder} were removed; other files are in it")


def _end(part: Daemon, drain_s: float, say: Say) -> None:
    part.signal(signal.SIGTERM)
    if part.name == "worker":
        if drain_s and not part.wait(QUIET_S):
            say(f"the worker lets its runs end, for up to {drain_s:.0f} s (`down --now` does not wait)")
        if not part.wait(drain_s):
            _give_back(part)
    killed = not part.wait(STOP_TIMEOUT_S)
    part.kill()
    say(f"  - {part.name}" + (" (by SIGKILL)" if killed else ""))


def _give_back(worker: Daemon) -> None:
    """A further SIGTERM ends the worker's waiting: what still runs goes back into the queue. It is sent more than once,
    since the worker takes one that comes right after the first for the same."""
    for _ in range(int(GIVE_BACK_S / AGAIN_S)):
        worker.signal(signal.SIGTERM)
        if worker.wait(AGAIN_S):
            return
