"""A flow in a process of its own that dies by SIGKILL at an exact moment.

A moment is `<operation>:<key prefix>:<n>`: the n-th call of that store operation for such a key, once it is done
(`put`, `complete_upload`) or before it is (`before-put`, `grant_read`).
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

import blocks.stores
from poorwill.store.base import Check, Grant, Pieces
from poorwill.store.local import LocalStore

PRELOADED = ["pytest", "tests.support.dying_flow", "flows.hibernate", "flows.wake"]


class Moment:
    """Counts what happens, and ends the process at the one that was asked for. One at a time: the count is exact."""

    def __init__(self, text: str) -> None:
        self._operation, self._prefix, number = text.split(":")
        self._left = int(number)
        self.lock = threading.RLock()

    def note(self, operation: str, key: str) -> None:
        if operation == self._operation and key.startswith(self._prefix):
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait()  # nothing may happen after it


class DyingStore(LocalStore):
    """A store during whose operations the process may end."""

    moment: Moment

    def put(self, key: str, data: bytes) -> None:
        with self.moment.lock:
            self.moment.note("before-put", key)
            super().put(key, data)
            self.moment.note("put", key)

    def put_fenced(self, key: str, data: bytes, check: Check) -> None:
        with self.moment.lock:
            self.moment.note("before-put", key)
            super().put_fenced(key, data, check)
            self.moment.note("put", key)

    def put_new(self, key: str, data: bytes, check: Check = lambda: None) -> bool:
        with self.moment.lock:
            self.moment.note("before-put", key)
            written = super().put_new(key, data, check)
            self.moment.note("put", key)
            return written

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        with self.moment.lock:
            super().complete_upload(key, upload_id, pieces, size)
            self.moment.note("complete_upload", key)

    def grant_read(self, key: str, *, expires_s: int) -> Grant:
        with self.moment.lock:
            self.moment.note("grant_read", key)
            return super().grant_read(key, expires_s=expires_s)


def fork(
    flow: str, parameters: Mapping[str, Any], moment: str, *, server: Mapping[str, str], log_path: Path
) -> multiprocessing.process.BaseProcess:
    """Start it; its output is added to the log. server: the environment that names the Prefect server.

    Importing Prefect and the flows takes seconds: one process did it and is forked from then on. It has one thread,
    nothing of the tests, and ends with them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {**server, "OPENBLAS_NUM_THREADS": "1"}.items():
            environment.setenv(name, value)
        forkserver.ensure_running()
        inherited = dict(os.environ)
    process = context.Process(target=_run, args=(flow, dict(parameters), moment, inherited, log_path), daemon=True)
    process.start()
    return process


def _run(flow: str, parameters: dict[str, Any], moment: str, environment: dict[str, str], log_path: Path) -> None:
    os.setsid()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(environment)
    DyingStore.moment = Moment(moment)
    blocks.stores.DirectoryStore = DyingStore
    module = importlib.import_module(f"flows.{flow}")
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        getattr(module, flow)(**parameters)
