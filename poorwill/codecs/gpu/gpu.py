"""One GPU that codes: its lanes, each a thread that takes batches from one queue.

While one lane's batch is coded, the copies of the others run. All lanes share the device's one context.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

from poorwill.codecs.gpu import ans, memory, planes
from poorwill.codecs.gpu.lanes import Lane
from poorwill.codecs.gpu.libraries import Libraries
from poorwill.codecs.gpu.queue import BatchQueue, Request
from poorwill.errors import Corrupt, DeviceFailed, OutOfMemory, PoorwillError, Unsupported

log = logging.getLogger(__name__)

LANES = 3
OUT_OF_MEMORY_MAX = 8

_WORK: dict[str, Callable[[Lane, list[Request]], None]] = {
    "ans": ans.encode, "ans-decode": ans.decode, "planes": planes.encode,
}  # fmt: skip


class Gpu:
    """One device. Thread-safe. `lost` says why it is not used any more."""

    def __init__(
        self,
        libraries: Libraries,
        device: int,
        lanes: int = LANES,
        batch_bytes: int | None = None,
        new_lane: Callable[[Libraries, int], Lane] = Lane,
    ) -> None:
        """batch_bytes: of a batch; None: as the free memory allows."""
        self._libraries, self.device, self._new_lane = libraries, device, new_lane
        self.name = libraries.cupy.cuda.runtime.getDeviceProperties(device)["name"].decode("utf-8", "replace")
        self.lost = ""
        self.queue = BatchQueue()
        self._lanes, self._batch_bytes = lanes, batch_bytes
        self._short = 0  # of memory, so many times in a row
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._serve, name=f"gpu-{device}-{n}", daemon=True) for n in range(lanes)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, request: Request) -> int | None:
        """Code one chunk; waits for it. OutOfMemory, DeviceFailed (it is lost then), Corrupt, EngineLost (it hangs)."""
        self.queue.put(request)
        return request.wait()

    def close(self) -> None:
        """End the lanes, each after its batch. Idempotent."""
        self._lose(DeviceFailed("the GPU is not used any more"))
        for thread in self._threads:
            thread.join(10.0)

    def _lose(self, error: PoorwillError) -> None:
        with self._lock:
            self.lost = self.lost or error.message
        self.queue.close(error)

    def _serve(self) -> None:
        try:
            lane = self._new_lane(self._libraries, self.device)
            batch_bytes = self._batch_bytes or memory.batch_bytes(lane.cupy, self._lanes)
            lane.buffer_bytes_min = batch_bytes * 5 // 4
        except Exception as error:
            self._lose(DeviceFailed(f"{self.name} cannot be opened: {type(error).__name__}: {error}"))
            return
        while batch := self.queue.take(batch_bytes):
            self._work(lane, batch)
        with suppress(Exception):  # a lost device raises
            lane.free()

    def _work(self, lane: Lane, batch: list[Request]) -> None:
        try:
            with lane:
                _WORK[batch[0].kind](lane, batch)
        except Exception as error:
            self._failed(lane, batch, error)
        else:
            self._short = 0
            for request in batch:
                request.finish()

    def _failed(self, lane: Lane, batch: list[Request], error: Exception) -> None:
        """Give each request of a batch its error. A damaged chunk fails alone."""
        # First of all: no copy into the callers' buffers may be under way when they go on.
        healthy = _healthy(lane)
        for request in batch:
            request.size = None
        if _is_out_of_memory(lane, error):
            self._out_of_memory(lane, batch, error, healthy=healthy)
        elif healthy and isinstance(error, Corrupt) and len(batch) > 1:
            for request in batch:
                self._work(lane, [request])
        elif healthy and isinstance(error, Corrupt):
            batch[0].finish(Corrupt(error.message))
        elif healthy and batch[0].kind == "planes" and not isinstance(error, DeviceFailed):
            _finish(batch, Unsupported(f"{self.name} makes no zstd frames: {_message(error)}"))
        else:
            lost = DeviceFailed(error.message if isinstance(error, DeviceFailed) else f"{self.name}: {_message(error)}")
            self._lose(lost)
            _finish(batch, lost)

    def _out_of_memory(self, lane: Lane, batch: list[Request], error: Exception, *, healthy: bool) -> None:
        short = OutOfMemory(f"{self.name}: its memory does not suffice: {error}")
        traceback.clear_frames(error.__traceback__)  # they hold arrays
        with suppress(Exception):
            lane.free()
        self._short += 1
        if not healthy or self._short >= OUT_OF_MEMORY_MAX:
            self._lose(DeviceFailed(short.message))
        _finish(batch, short)


def _finish(batch: list[Request], error: PoorwillError) -> None:
    for request in batch:
        request.finish(error)


def _message(error: Exception) -> str:
    return error.message if isinstance(error, PoorwillError) else f"{type(error).__name__}: {error}"


def _is_out_of_memory(lane: Lane, error: Exception) -> bool:
    own = isinstance(error, (lane.cupy.cuda.memory.OutOfMemoryError, OutOfMemory, MemoryError))
    text = str(error).lower().replace(" ", "")
    return own or any(words in text for words in ("outofmemory", "memoryallocation", "cannotallocate"))


def _healthy(lane: Lane) -> bool:
    """Whether the device still works; waits for what was begun. Most errors of CUDA end a process's use of it."""
    try:
        lane.synchronize()
        return True
    except Exception:
        return False
