"""The row `durable`: a queue of jobs, and what becomes of it while the worker and the server are killed."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from uuid import UUID

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType

from bench.arena import say
from bench.generation.figures import Durable
from bench.generation.studio import Studio
from bench.measure import CommandFailed
from poorwill.errors import PoorwillError
from poorwill.media import delivery

SLOTS = 2
KILL_AT = (0.16, 0.4, 0.64)
"""Worker, server, worker: when such shares of the videos are made."""
STUCK_AFTER_S = 240.0
DEADLINE_S = 600.0
POLL_S = 0.5
BUSY_TIMEOUT_S, BUSY_POLL_S = 10.0, 0.05
PAGE = 200
OBJECTS = {"video.mp4", "poster.jpg", "contact-sheet.jpg", "video.json"}
HELD = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


@dataclass(slots=True)
class Queue:
    """The runs of one measurement. `began_s` is monotonic."""

    built: Studio
    runs: tuple[UUID, ...]
    began_s: float

    @classmethod
    def fill(cls, built: Studio, jobs: int) -> Queue:
        """Create the runs, each of them twice with the same key: CommandFailed unless that gives one run."""
        began_s = time.monotonic()
        made = tuple(built.create(built.deployment, key=f"durable-{number}") for number in range(jobs))
        again = tuple(built.create(built.deployment, key=f"durable-{number}") for number in range(jobs))
        if made != again or len(set(made)) != jobs:
            raise CommandFailed(f"{jobs} idempotency keys, each used twice, gave {len({*made, *again})} runs")
        return cls(built, made, began_s)

    def objects(self) -> dict[str, set[str]]:
        """Run -> the names of its objects in the store."""
        found: dict[str, set[str]] = {str(run): set() for run in self.runs}
        for seen in self.built.store.list("videos/"):
            _, run, name = seen.key.split("/", 2)
            if run in found:  # other rows have made videos too
                found[run].add(name)
        return found

    def until_busy(self) -> None:
        """Wait until every slot works on a run, but not for long: whoever is killed now is to leave some."""
        ends_s = time.monotonic() + BUSY_TIMEOUT_S
        while self.states().get(StateType.RUNNING.value, 0) < SLOTS and time.monotonic() < ends_s:
            time.sleep(BUSY_POLL_S)

    def flow_runs(self) -> list[FlowRun]:
        """What the server says of them."""
        found: list[FlowRun] = []
        for at in range(0, len(self.runs), PAGE):
            some = FlowRunFilter(id=FlowRunFilterId(any_=list(self.runs[at : at + PAGE])))
            found += self.built.client.read_flow_runs(flow_run_filter=some, limit=PAGE)
        return found

    def until_videos(self, count: int) -> None:
        """Wait until so many runs have their video. CommandFailed at the deadline."""
        while (made := sum("video.json" in names for names in self.objects().values())) < count:
            if time.monotonic() > self.began_s + DEADLINE_S:
                raise CommandFailed(f"{made} of {count} videos after {DEADLINE_S:.0f} s; the runs are {self.states()}")
            time.sleep(POLL_S)

    def states(self) -> dict[str, int]:
        """State type -> runs."""
        return dict(Counter(run.state.type.value for run in self.flow_runs() if run.state is not None))


def measure(built: Studio, jobs: int) -> Durable:
    """Queue `jobs` runs; kill the worker, the server and the worker again between them; wait for the end.

    Workers have two slots without a GPU on every host. CommandFailed if the queue stands still before the last kill.
    """
    worker = built.worker("durable", cpu_slots=SLOTS)
    queue = Queue.fill(built, jobs)

    def restart_worker() -> None:
        worker.kill()
        worker.start()

    def restart_server() -> None:
        built.server.kill()
        built.server.start()

    try:
        worker.start()
        for share, name, restart in zip(KILL_AT, ("worker", "server", "worker"),
                                        (restart_worker, restart_server, restart_worker), strict=True):  # fmt: skip
            queue.until_videos(round(share * jobs))
            queue.until_busy()
            say(f"durable: {share:.0%} made after {time.monotonic() - queue.began_s:.0f} s: the {name} is killed")
            restart()
        return watched(queue, time.monotonic())
    finally:
        worker.kill()


def watched(queue: Queue, killed_s: float) -> Durable:
    """What becomes of all runs of a queue; `killed_s` is when something was killed for the last time, monotonic."""
    stuck, looked_after_s = _end(queue, killed_s)
    return _found(queue, stuck, looked_after_s)


def _end(queue: Queue, killed_s: float) -> tuple[int, float]:
    """Wait until all runs are over, or the deadline. Returns how many were held when all were over, STUCK_AFTER_S after
    the last kill or at the deadline, whichever came first; and how long that was after the kill."""
    seen: tuple[int, float] | None = None
    while True:
        states, now_s = queue.states(), time.monotonic()
        held = sum(states.get(state.value, 0) for state in HELD)
        over = not held and not states.get(StateType.SCHEDULED.value, 0)
        late = now_s > queue.began_s + DEADLINE_S
        if seen is None and (over or late or now_s > killed_s + STUCK_AFTER_S):
            seen = held, now_s - killed_s
        if seen is not None and (over or late):
            return seen
        time.sleep(POLL_S)


def _found(queue: Queue, stuck: int, looked_after_s: float) -> Durable:
    wall_s = time.monotonic() - queue.began_s
    runs, objects = queue.flow_runs(), queue.objects()
    completed = [run for run in runs if run.state is not None and run.state.is_completed()]
    return Durable(
        jobs=len(queue.runs),
        slots=SLOTS,
        ended=queue.states(),
        whole=sum(_is_whole(queue.built, str(run.id), objects[str(run.id)]) for run in completed),
        begun_anew=sum(max(0, run.run_count - 1) for run in runs),
        stuck=stuck,
        looked_after_s=looked_after_s,
        wall_s=wall_s,
    )


def _is_whole(built: Studio, run: str, names: set[str]) -> bool:
    """Exactly the objects of one video, which is as large as its record says."""
    if names != OBJECTS:
        return False
    try:
        record = delivery.delivered(built.store, run)
        size = built.store.head(delivery.key_of(run, "video")).size
    except PoorwillError:
        return False
    return record is not None and size == record.bytes["video"]
