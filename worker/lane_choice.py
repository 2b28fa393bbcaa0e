"""All lanes of a worker: which of them takes a run."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from worker.lane import Kind, Lane
from worker.settings import Settings


class Lanes:
    """Reserves a lane for each run, from before it is taken off the queue until its end. Not thread-safe."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self.all = tuple(lanes)
        self._held: dict[UUID, Lane] = {}

    @classmethod
    def of(cls, settings: Settings) -> Lanes:
        """One lane for each GPU, for each CPU slot that stands for one, and for each control slot."""
        lanes = [Lane(f"gpu {gpu}", "gpu", {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in settings.gpus]
        no_gpu = {"CUDA_VISIBLE_DEVICES": ""}
        lanes += [Lane(f"cpu {n}", "gpu", no_gpu) for n in range(settings.cpu_slots)]
        lanes += [Lane(f"control {n}", "control", no_gpu) for n in range(settings.control_slots)]
        return cls(lanes)

    def reserve(self, run: UUID, kind: Kind, affinity: str) -> Lane | None:
        """A free lane for this run, None if none is free.

        One that has loaded the same is preferred, then one that has loaded nothing, then the one idle for longest.
        """
        free = [lane for lane in self.all if lane.kind == kind and lane.free]
        if run in self._held or not free:
            return None
        lane = min(free, key=lambda lane: (lane.affinity != affinity, lane.affinity != "", lane.idle_since_s))
        lane.take(str(run))
        self._held[run] = lane
        return lane

    def of_run(self, run: UUID) -> Lane | None:
        return self._held.get(run)

    def release(self, run: UUID) -> bool:
        """Give the run's lane back. False if it held none: idempotent."""
        lane = self._held.pop(run, None)
        if lane is None:
            return False
        lane.give_back()
        return True

    @property
    def runs(self) -> tuple[UUID, ...]:
        return tuple(self._held)

    async def close(self) -> None:
        """End all processes, those of runs at once."""
        for lane in self.all:
            await lane.close()
