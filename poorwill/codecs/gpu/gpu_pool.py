"""All GPUs of this machine that code, as one: a chunk goes to the least loaded; a lost one does not stop the others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from poorwill.codecs.gpu.gpu import LANES, Gpu
from poorwill.codecs.gpu.lanes import address
from poorwill.codecs.gpu.libraries import Libraries, check_driver, load, pin, usable_devices
from poorwill.codecs.gpu.queue import Request
from poorwill.errors import DeviceFailed, EngineLost, OutOfMemory, PoorwillError, Unsupported

log = logging.getLogger(__name__)


class Gpus:
    """Thread-safe. Encoding never fails because of a GPU: the caller codes that chunk on the CPU."""

    def __init__(self, libraries: Libraries, each: Sequence[Gpu]) -> None:
        self.libraries, self._each = libraries, list(each)
        self.fell_back = 0
        """How many chunks a GPU was asked to encode and did not."""
        self.warning = ""
        """Why the first of them was not encoded."""
        self._lock = threading.Lock()
        self._pinned: list[memoryview] = []
        self._refused: set[str] = set()
        """Kinds that these GPUs do not encode at all."""

    @property
    def usable(self) -> bool:
        return any(not each.lost for each in self._each)

    def describe(self) -> str:
        """For people: the names of the GPUs."""
        return ", ".join(each.name for each in self._each)

    def encode(self, kind: str, raw: memoryview, out: memoryview, form: Any) -> int | None:
        """Code a chunk as `kind` ("ans", "planes"); the bytes written to `out`, or None: it was not coded. EngineLost
        if a GPU hangs: it might still write into `out`."""
        if kind in self._refused:
            return None
        failed: PoorwillError | None = None
        for each in self._by_load():
            try:
                return each.run(Request(kind, raw, out, form))
            except (OutOfMemory, Unsupported) as error:
                failed = error
                if isinstance(error, Unsupported):
                    self._refused.add(kind)
                break
            except DeviceFailed as error:
                failed = error
        self._note(failed or DeviceFailed(self._each[0].lost))
        return None

    def decode(self, stored: memoryview, out: memoryview, form: Any) -> None:
        """Fill `out`. Corrupt; OutOfMemory; EngineLost when no GPU works any more or one hangs: in a new process it may
        work again."""
        failed: PoorwillError = EngineLost(f"no GPU of this engine works any more: {self._each[0].lost}")
        for each in self._by_load():
            for alone in (False, True):
                try:
                    each.run(Request("ans-decode", stored, out, form, alone=alone))
                    return
                except OutOfMemory as error:
                    failed = error
                except DeviceFailed as error:
                    failed = EngineLost(f"no GPU of this engine works any more: {error.message}")
                    break
        raise failed

    def _by_load(self) -> list[Gpu]:
        return sorted((each for each in self._each if not each.lost), key=lambda each: each.queue.bytes)

    def _note(self, error: PoorwillError) -> None:
        with self._lock:
            self.fell_back += 1
            first, self.warning = not self.warning, self.warning or error.message
        if first:
            log.warning("%s; the CPU codes what it does not", error.message)

    def pin(self, buffer: memoryview) -> memoryview:
        """The buffer, its pages pinned where the system allows it: copies to and from it are then twice as fast. It is
        kept as long as the process lives: the device would go on writing to pages that were given back."""
        try:
            pin(self.libraries, address(buffer), len(buffer))
            with self._lock:
                self._pinned.append(buffer)
        except Exception as error:  # a container's limit on locked memory, for example: slower, not wrong
            log.info("a buffer cannot be pinned: %s", error)
        return buffer

    def unpin(self, buffer: memoryview) -> None:
        """Undo `pin`, once nothing is copied to or from the buffer any more."""
        with self._lock:
            kept = [each for each in self._pinned if each is not buffer]
            pinned, self._pinned = len(kept) < len(self._pinned), kept
        if pinned:
            self.libraries.cupy.cuda.runtime.hostUnregister(address(buffer))

    def close(self) -> None:
        """End all lanes. Idempotent."""
        for each in self._each:
            each.close()


def open_gpus(libraries: Libraries | None = None, lanes: int = LANES) -> Gpus:
    """The GPUs of this machine. Unsupported, with the reason, if none can code."""
    if libraries is None:
        check_driver()
    loaded = libraries or load()
    return Gpus(loaded, [Gpu(loaded, device, lanes) for device in usable_devices(loaded)])
