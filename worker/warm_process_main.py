"""python -m worker.warm_process_main PARENT_PID: runs one flow run after another, and keeps what they have loaded.

It ends with the worker that started it, however that ends. What its runs share, the loaded model above all, is made
here and found by flows through `poorwill.media.process_state`, a module that Prefect does not load anew for each run.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import importlib.util
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Coroutine
from typing import Any, BinaryIO, cast
from uuid import UUID

from poorwill.errors import DeviceFailed, OutOfMemory
from poorwill.media import process_state
from poorwill.media.process_state import ProcessState
from poorwill.media.stop import Stop
from worker import messages

_PR_SET_PDEATHSIG = 1
PRELOAD = "poorwill.media.loading,poorwill.media.inference"
CLIENT_RETRIES = 7
"""About four minutes of patience with a server that is restarted, where Prefect's own default is one."""


def main(parent_pid: int) -> int:
    """Until the end of stdin."""
    _die_with(parent_pid)
    answers = _claim_stdout()
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    state = ProcessState()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, waiting, state.stop), name="orders", daemon=True).start()
    _warm_up()
    with _own_settings(), process_state.using(state):
        answers.write(messages.encode(event="ready"))
        while (run := waiting.get()) is not None:
            ended = _performed(UUID(run))
            answers.write(messages.encode(event="ended", run=run, **ended, rss_bytes=_rss_bytes()))
    return 0


def _die_with(parent_pid: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it may have died before
        os._exit(1)


def _claim_stdout() -> BinaryIO:
    """The stream to the worker, for this process alone: what runs print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return answers


def _listen(orders: BinaryIO, waiting: queue.SimpleQueue[str | None], stop: Stop) -> None:
    current = ""
    for line in orders:
        order = messages.decode(line)
        if "run" in order:
            current = str(order["run"])
            stop.clear()  # here and not when it begins: a cancel may be the very next line
            waiting.put(current)
        elif order.get("cancel") == current:
            stop.request(str(order.get("why", "cancelled")))
        elif order.get("terminate") == current:
            _terminate()
    waiting.put(None)


def _terminate() -> None:
    """As Prefect's own runner does it: SIGTERM raises an exception in the flow, and the intent says what it means."""
    from prefect._internal import control_listener

    control_listener._set_intent("cancel")
    os.kill(os.getpid(), signal.SIGTERM)


def _warm_up() -> None:
    """Import what takes seconds before the first run waits for it: POORWILL_PRELOAD names modules, with commas."""
    preload = os.environ.get("POORWILL_PRELOAD")
    if preload is None:
        generates = all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))
        preload = PRELOAD if generates else ""
    for module in ("prefect.flow_engine", *filter(None, preload.split(","))):
        importlib.import_module(module.strip())


def _own_settings() -> contextlib.AbstractContextManager[Any]:
    """Prefect's settings for runs in this process. Entered once: working them out takes a tenth of a second.

    The worker reports a process that dies, so runs send no heartbeats: joining their thread costs each run a second.
    """
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_CLIENT_MAX_RETRIES: CLIENT_RETRIES})


def _performed(flow_run_id: UUID) -> dict[str, Any]:
    """Run it, and leave no trace in the process. An error outside of the flow is returned; one inside is its state."""
    import httpx
    from prefect.exceptions import Abort, Pause

    folder, path = os.getcwd(), list(sys.path)
    ended: dict[str, Any] = {"error": None, "unreachable": False, "retire": None}
    try:
        ended["retire"] = _why_retire(_run(flow_run_id))
    except (Abort, Pause):
        pass  # the server refused, for example because the run was cancelled meanwhile
    except httpx.TransportError as error:
        ended |= {"error": f"{type(error).__name__}: {error}", "unreachable": True}
    except BaseException as error:
        ended |= {"error": f"{type(error).__name__}: {error}", "retire": "it failed outside of a flow"}
    finally:
        os.chdir(folder)
        sys.path[:] = path
        _give_memory_back()
    return ended


def _run(flow_run_id: UUID) -> Any:
    """The run's final state."""
    from prefect.flow_engine import load_flow_and_flow_run, run_flow
    from prefect.logging.loggers import flow_run_logger

    flow_run, flow = load_flow_and_flow_run(flow_run_id)
    logger = cast("logging.Logger", flow_run_logger(flow_run))  # an adapter, as Prefect itself passes
    state = run_flow(flow, flow_run=flow_run, return_type="state", error_logger=logger)
    return asyncio.run(cast("Coroutine[Any, Any, Any]", state)) if flow.isasync else state


def _why_retire(state: Any) -> str | None:
    """Why the process must not be given another run, if so: a GPU's error stays in its context."""
    error = None if state.is_completed() or state.is_cancelled() else state.result(raise_on_failure=False)
    return f"a run failed with {type(error).__name__}" if isinstance(error, (DeviceFailed, OutOfMemory)) else None


def _give_memory_back() -> None:
    """Free what a run has left on the heap: else a process grows by megabytes a run, in pieces that nobody uses."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # not every C library has it
            ctypes.CDLL(None).malloc_trim(0)


def _rss_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
