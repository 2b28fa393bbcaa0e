"""Flows that do on purpose what runs do by accident. Each tells a file what it did: `path` gets one line a run."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.states import Cancelled as CancelledState

from flows.stages import failed
from poorwill.errors import Cancelled, DeviceFailed, OutOfMemory
from poorwill.media import process_state
from tests.worker import kept


def tell(path: str, *words: object) -> None:
    """One line, whole, whoever else writes."""
    with open(path, "a") as told:
        told.write(" ".join(map(str, words)) + "\n")


@flow(persist_result=False)
def remember(path: str, model: str = "") -> None:
    """Tells its process, how many runs that has kept in mind, its GPU, and a variable of its job."""
    kept.RUNS.append(model)
    gpu, variable = os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("JOB_VARIABLE", "-")
    tell(path, os.getpid(), len(kept.RUNS), gpu or "none", variable, os.getcwd())


@flow(persist_result=False)
def at_once(path: str) -> None:
    """Does nothing."""
    tell(path, os.getpid())


@flow(persist_result=False)
def until_stopped(path: str) -> Any:
    """Goes on until it is stopped, as inference does between two steps."""
    tell(path, os.getpid(), "began")
    stop = process_state.current().stop
    try:
        while True:
            stop.check()
            time.sleep(0.01)
    except Cancelled as error:
        tell(path, os.getpid(), "stopped")
        return CancelledState(message=error.message)


@flow(persist_result=False)
def until_released(path: str, release: str) -> None:
    """Goes on until the file `release` is there. Tells when it begins, and when it ends."""
    tell(path, os.getpid(), "began")
    while not Path(release).exists():
        time.sleep(0.01)
    tell(path, os.getpid(), "ended")


@flow(persist_result=False)
def deaf(path: str) -> None:
    """Hears nothing, like a kernel that hangs."""
    tell(path, os.getpid(), "began")
    try:
        threading.Event().wait(600)
    finally:
        tell(path, os.getpid(), "cleaned up")


@flow(persist_result=False)
def dies(path: str, how: str) -> Any:
    """Ends its process (`kill`, `exit`), or fails as a GPU does (`memory`, `device`)."""
    tell(path, os.getpid(), how)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    return failed(OutOfMemory("no room") if how == "memory" else DeviceFailed("an illegal access"))


@flow(persist_result=False)
def swells(path: str, megabytes: int) -> None:
    """Keeps that much more in its process."""
    kept.BALLAST.append(bytearray(os.urandom(1)) * (megabytes << 20))
    tell(path, os.getpid())
