"""The rows of image-to-video generation: what the flow adds to inference, and what a resident process keeps."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import StateType

from bench.arena import Arena, say
from bench.generation import durability, restarts
from bench.generation.bare_process import BareProcess
from bench.generation.figures import Growth, Inference, Start, Starts
from bench.generation.studio import PROMPT, Studio, studio
from bench.measure import CommandFailed, rss_bytes
from deployments.servers.loopback import free_port
from deployments.servers.picture_server import dusk
from poorwill.errors import PoorwillError

LONG: dict[str, Any] = {"num_frames": 65, "height": 128, "width": 128, "steps": 80, "guidance": 6.0, "seed": 1}
"""Seconds of inference, beside which milliseconds of anything else show."""
RESIDENT_A_ROUND = 3
OUT_OF_STEP_S = 0.37
SELDOM_S = 2.0
HEALTH_TIMEOUT_S = 30.0
FAILURES = (CommandFailed, PoorwillError)


@dataclass(frozen=True, slots=True)
class Counts:
    """How often things are done."""

    rounds: int = 4
    pairs: int = 5
    growth_jobs: int = 30
    durable_jobs: int = 50
    restarts_jobs: int = 200


QUICK = Counts(rounds=1, pairs=1, growth_jobs=6, durable_jobs=10, restarts_jobs=20)


def measure(arena: Arena, rows: set[str], counts: Counts) -> None:
    """Measure those of the rows of generation that are in `rows`, on servers of their own. What fails is reported."""
    every: dict[str, Callable[[Studio], object]] = {
        "warm": lambda built: starts(built, counts.rounds),
        "inference": lambda built: in_flow_and_bare(built, counts.pairs),
        "growth": lambda built: memory_over_jobs(built, counts.growth_jobs),
        # Last, as they kill the servers.
        "durable": lambda built: durability.measure(built, counts.durable_jobs),
        "restarts": lambda built: restarts.measure(built, counts.restarts_jobs),
    }
    arena.clear()
    say("generation: starting servers, building a tiny model")
    try:
        with studio(arena.scratch / "generation") as built:
            for row in (row for row in every if row in rows):
                try:
                    setattr(arena.report.generation, row, every[row](built))
                except FAILURES as error:
                    arena.failed(row, {"poorwill": str(error)})
    except FAILURES as error:
        arena.failed("generation", {"poorwill": str(error)})


def starts(built: Studio, rounds: int) -> Starts:
    """Three runs on a warm resident process, one on Prefect's process worker, and so on; both workers are up."""
    resident: list[Start] = []
    process: list[Start] = []
    elsewhere = built.deploy_to_process_pool()
    with built.worker("resident"), built.worker("process", kind="process"):
        built.completed(built.create(built.deployment))  # loads the model
        for _ in range(rounds):
            for _ in range(RESIDENT_A_ROUND):
                resident.append(_start(built, built.deployment, len(resident)))
                say(f"warm {len(resident)}: {resident[-1].own_s:.2f} s and {resident[-1].polling_s:.2f} s of polling")
            process.append(_start(built, elsewhere, len(process)))
            say(f"warm: process worker: {process[-1].own_s:.2f} s and {process[-1].polling_s:.2f} s of polling")
    return Starts(tuple(resident), tuple(process))


def _start(built: Studio, deployment: UUID, number: int) -> Start:
    """How one run begins. The queue time is by its states' own clock, so that creating the run is not part of it."""
    time.sleep(number * OUT_OF_STEP_S % 1)  # or runs would be created in step with the worker's polling
    asked_at = time.time()
    run = built.create(deployment)
    began_at = float(built.completed(run)["inference_began_at"])
    states = sorted(built.client.read_flow_run_states(run), key=lambda state: state.timestamp)
    queued_at = states[0].timestamp.timestamp()
    seen_at = next(state.timestamp.timestamp() for state in states if state.type == StateType.PENDING)
    return Start(began_at - asked_at, seen_at - queued_at)


def in_flow_and_bare(built: Studio, pairs: int) -> Inference:
    """The same video in the flow and in a bare loop, in turns; whoever does not have its turn is idle."""
    picture = built.folder / "picture.png"
    picture.write_bytes(dusk())
    flow_s: list[float] = []
    bare_s: list[float] = []
    bare_loop = BareProcess(built.model, picture, _pipeline_arguments(), built.folder / "bare.log")
    with built.worker("inference"), bare_loop as bare:
        _inferred_s(built)
        for number in range(pairs):
            flow_s.append(_inferred_s(built))
            bare_s.append(bare.once())
            say(f"inference {number + 1}: {flow_s[-1]:.2f} s in the flow, {bare_s[-1]:.2f} s in the bare loop")
    return Inference(tuple(flow_s), tuple(bare_s))


def _inferred_s(built: Studio) -> float:
    """Asked seldom whether it is over, as that takes time from the cores that infer."""
    run = built.create(built.deployment, **LONG)
    return int(built.completed(run, poll_s=SELDOM_S)["timings_ms"]["infer"]) / 1000


def _pipeline_arguments() -> dict[str, Any]:
    """LONG, by the names of the pipeline's own arguments."""
    passed = dict(LONG)
    steps, guidance = passed.pop("steps"), passed.pop("guidance")
    names = {"num_inference_steps": steps, "true_cfg_scale": guidance, "guidance_scale": 1.0}
    return {"prompt": PROMPT, "negative_prompt": "", **names, **passed}


def memory_over_jobs(built: Studio, jobs: int) -> Growth:
    """The memory of one resident process after each of `jobs` runs. CommandFailed if it was replaced meanwhile.

    RSS, and not PSS as in the row `memory`: what counts is the change of one process, and its share of the pages of
    torch's libraries grows by tens of megabytes whenever another process that uses them ends.
    """
    health = f"127.0.0.1:{free_port()}"
    pids: set[int] = set()
    memory: list[int] = []
    with built.worker("growth", HEALTH=health):
        for number in range(1, jobs + 1):
            built.completed(built.create(built.deployment))
            pids.add(_resident(health, number))
            memory.append(rss_bytes(max(pids)))
            if len(pids) > 1:
                raise CommandFailed(f"the resident process was replaced after {number - 1} jobs")
    say(f"growth: {memory[1] / 1e6:.0f} MB after 2 jobs, {memory[-1] / 1e6:.0f} MB after {jobs}")
    return Growth(tuple(memory))


def _resident(health: str, jobs: int) -> int:
    """The process that has done so many jobs and waits for the next one."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ends_s = time.monotonic() + HEALTH_TIMEOUT_S
    while time.monotonic() < ends_s:
        with opener.open(f"http://{health}/health", timeout=HEALTH_TIMEOUT_S) as answer:
            lanes = json.load(answer)["lanes"]
        for lane in lanes:
            if lane["pid"] and lane["status"] == "ready" and lane["runs"] == jobs:
                return int(lane["pid"])
        time.sleep(0.1)
    raise CommandFailed(f"no resident process has done {jobs} jobs: {lanes}")
