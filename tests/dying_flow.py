"""A flow in a process of its own that dies by SIGKILL at an exact moment.

python -m tests.dying_flow FLOW PARAMETERS MOMENT, with MOMENT `<operation>:<key prefix>:<n>`: the n-th call of that
store operation for such a key, once it is done (`put`, `complete_upload`) or before it is (`before-put`, `grant_read`).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from typing import Any

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

import blocks.stores
from poorwill.store.base import Grant, Pieces
from poorwill.store.local import LocalStore


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

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        with self.moment.lock:
            super().complete_upload(key, upload_id, pieces, size)
            self.moment.note("complete_upload", key)

    def grant_read(self, key: str, *, expires_s: int) -> Grant:
        with self.moment.lock:
            self.moment.note("grant_read", key)
            return super().grant_read(key, expires_s=expires_s)


def main(flow: str, parameters: dict[str, Any], moment: str) -> None:
    DyingStore.moment = Moment(moment)
    blocks.stores.DirectoryStore = DyingStore
    module = importlib.import_module(f"flows.{flow}")
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        getattr(module, flow)(**parameters)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3])
