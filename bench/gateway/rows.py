"""The row `gateway`: how fast the HTTP API answers beside 10,000 past runs, on each of Prefect's databases."""

from __future__ import annotations

import json
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.states import Running

import blocks
from bench.arena import Arena, say
from bench.gateway.database import postgresql
from bench.gateway.figures import Latencies, OnDatabase
from bench.gateway.history import PARAMETERS, fill
from bench.gateway.load import Ask, Sample, spaced
from bench.gateway.process import gateway_process
from bench.measure import CommandFailed, rss_bytes
from deployments.registration.gpu_pool import create_pool, deploy
from deployments.servers.prefect_server import PrefectServer
from flows.generate import generate
from poorwill.errors import PoorwillError

STATUS_PER_S, RUN_PER_S = 50.0, 10.0
QUEUED, RUNNING, HOT = 300, 8, 40
DIGEST_TIMEOUT_S, DIGEST_WINDOW_S, RESTING = 60.0, 6.0, 0.05
"""Longer than the server gathers events for; and what share of a core it takes at rest."""
LOAD_MARGIN_S = 60.0
KINDS = ("queued", "queued", "queued hot", "running", "running", "done hot", "done hot", "done", "done", "done")
"""Of each ten requests for a status: `done` asks for a run that nobody has asked for before."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is done."""

    past_runs: int = 10_000
    seconds: float = 20.0
    memory_requests: int = 20_000
    memory_shares: int = 10


QUICK = Counts(past_runs=500, seconds=3.0, memory_requests=1000, memory_shares=4)


@dataclass(slots=True)
class Rig:
    """A gateway over a Prefect server with a past."""

    client: SyncPrefectClient
    server: PrefectServer
    process: subprocess.Popen[bytes]
    port: int
    token: str
    queued: list[UUID]
    running: list[UUID]
    done: list[UUID]

    def statuses(self, count: int) -> Iterator[str]:
        """The paths of so many requests, as KINDS has them."""
        cold = iter(self.done[HOT:])
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            if kind == "done":
                run = next(cold, None) or random.choice(self.done)
            else:
                every = {"queued": self.queued, "queued hot": self.queued[:HOT], "running": self.running,
                         "done hot": self.done[:HOT]}  # fmt: skip
                run = random.choice(every[kind])
            yield f"/status?id={run}"

    def load(self, asks: list[Ask], timeout_s: float) -> list[Sample]:
        """The samples of a plan, in its order. CommandFailed if it does not end."""
        plan = {"host": "127.0.0.1", "port": self.port, "token": self.token, "asks": [asdict(ask) for ask in asks]}
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "bench.gateway.load"],
                input=json.dumps(plan).encode(),
                capture_output=True,
                check=True,
                timeout=timeout_s,
                cwd=Path(__file__).parents[2],
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise CommandFailed(f"the load ended without its samples: {error}") from None
        return [Sample(**sample) for sample in json.loads(ended.stdout)]


def measure(arena: Arena, counts: Counts) -> None:
    """On SQLite and on PostgreSQL, each with servers of its own. What fails is reported."""
    arena.clear()
    figures = arena.report.gateway
    try:
        figures.sqlite = on_database(arena.scratch / "gateway-sqlite", None, counts)
    except (CommandFailed, PoorwillError) as error:
        arena.failed("gateway on SQLite", {"poorwill": str(error)})
    try:
        with postgresql(arena.scratch.parent) as url:  # the scratch folder itself is root's alone
            figures.postgresql = on_database(arena.scratch / "gateway-postgresql", url, counts)
    except (CommandFailed, PoorwillError) as error:
        arena.failed("gateway on PostgreSQL", {"poorwill": str(error)})


def on_database(folder: Path, database_url: str | None, counts: Counts) -> OnDatabase:
    """All of the row on one database; None: SQLite in the folder."""
    name = "SQLite" if database_url is None else "PostgreSQL"
    say(f"gateway, {name}: starting servers, {counts.past_runs} past runs")
    with rig(folder, database_url, counts.past_runs) as built:
        _warm(built)
        _until_digested(built.server)
        status = _at_rate(built, counts.seconds, statuses=True)[0]
        say(f"gateway, {name}: /status {_shown(status)}")
        run = _at_rate(built, counts.seconds, runs=True)[1]
        say(f"gateway, {name}: /run {_shown(run)}")
        both_status, both_run = _at_rate(built, counts.seconds, statuses=True, runs=True)
        say(f"gateway, {name}: both: /status {_shown(both_status)}; /run {_shown(both_run)}")
        began_s = time.monotonic()
        memory = tuple(_memory(built, counts))
        rate = counts.memory_requests / (time.monotonic() - began_s)
        say(f"gateway, {name}: {', '.join(f'{one / 1e6:.0f}' for one in memory)} MB; {rate:.0f} requests/s")
        return OnDatabase(counts.past_runs, status, run, both_status, both_run, counts.memory_requests, memory, rate)


def _warm(built: Rig) -> None:
    """Every kind of request once, so that what is loaded at the first one is loaded."""
    paths = [f"/status?id={run}" for run in (built.queued[0], built.running[0], built.done[0])]
    asks = [*(Ask(None, "GET", path) for path in (*paths, "/ready")), _creation(0)]
    built.load(asks, LOAD_MARGIN_S)


def _until_digested(server: PrefectServer) -> None:
    """Until the server has written the events of the runs that were made for it, which it gathers for seconds: what is
    measured begins with a past, and with nothing else going on. CommandFailed if it does not come to rest."""
    process = psutil.Process(server.pid)
    ends_s = time.monotonic() + DIGEST_TIMEOUT_S
    while time.monotonic() < ends_s:
        before_s = sum(process.cpu_times()[:2])
        time.sleep(DIGEST_WINDOW_S)
        if sum(process.cpu_times()[:2]) - before_s < RESTING * DIGEST_WINDOW_S:
            return
    raise CommandFailed(f"Prefect's server was not at rest {DIGEST_TIMEOUT_S:.0f} s after its runs were made")


def _creation(number: float) -> Ask:
    return Ask(number, "POST", "/run", json.dumps({**PARAMETERS, "seed": random.randrange(1 << 32)}))


def _at_rate(built: Rig, seconds: float, *, statuses: bool = False, runs: bool = False) -> tuple[Latencies, Latencies]:
    """Statuses and creations at their rates, together or one of them alone."""
    asks: list[Ask] = []
    if statuses:
        times = spaced(int(STATUS_PER_S * seconds), STATUS_PER_S)
        asks += [Ask(at_s, "GET", path) for at_s, path in zip(times, built.statuses(len(times)), strict=True)]
    if runs:
        asks += [_creation(at_s) for at_s in spaced(int(RUN_PER_S * seconds), RUN_PER_S)]
    asks.sort(key=lambda ask: ask.at_s or 0.0)
    samples = built.load(asks, seconds + LOAD_MARGIN_S)
    found = list(zip(asks, samples, strict=True))
    return (
        _latencies([sample for ask, sample in found if ask.method == "GET"], STATUS_PER_S, 200),
        _latencies([sample for ask, sample in found if ask.method == "POST"], RUN_PER_S, 202),
    )


def _latencies(samples: list[Sample], rate_per_s: float, expected: int) -> Latencies:
    failed = sum(sample.status != expected for sample in samples)
    return Latencies.of([sample.latency_s for sample in samples] or [0.0], rate_per_s, failed)


def _memory(built: Rig, counts: Counts) -> Iterator[int]:
    """The gateway's RSS after each share of the requests, which are made as fast as it answers."""
    paths = list(built.statuses(counts.memory_requests))
    share = len(paths) // counts.memory_shares
    for start in range(0, share * counts.memory_shares, share):
        some = [Ask(None, "GET", path) for path in paths[start : start + share]]
        failed = sum(sample.status != 200 for sample in built.load(some, share * 1.0 + LOAD_MARGIN_S))
        if failed:
            raise CommandFailed(f"{failed} of {share} requests failed")
        yield rss_bytes(built.process.pid)


def _shown(latencies: Latencies) -> str:
    failed = f", {latencies.failed} FAILED" if latencies.failed else ""
    return f"p50 {latencies.p50_s * 1000:.0f} ms, p99 {latencies.p99_s * 1000:.0f} ms{failed}"


@contextmanager
def rig(folder: Path, database_url: str | None, past_runs: int) -> Iterator[Rig]:
    """Servers, pool, deployment, blocks, and runs in every state."""
    with ExitStack() as running:
        server = running.enter_context(PrefectServer(folder, database_url=database_url))
        running.enter_context(server.settings())
        create_pool()
        deployment = deploy(generate, gpus=1)
        place = blocks.LocalStore(directory=str(folder / "store"))
        place.save("media-store", overwrite=True)
        place.save("default", overwrite=True)
        blocks.Media(store=place).save("media", overwrite=True)
        client = running.enter_context(get_client(sync_client=True))
        done = fill(client, deployment, server.database_url, past_runs)
        queued = [client.create_flow_run_from_deployment(deployment, parameters=PARAMETERS).id for _ in range(QUEUED)]
        working = [_working(client, deployment) for _ in range(RUNNING)]
        token = secrets.token_hex(16)
        settings = {**server.env(), "POORWILL_API_TOKENS": f"bench:{token}", "POORWILL_API_QUEUE_MAX": "100000",
                    "POORWILL_API_RATE_PER_S": "100000", "POORWILL_API_RATE_BURST": "100000"}  # fmt: skip
        process, port = running.enter_context(gateway_process(folder, settings))
        yield Rig(client, server, process, port, token, queued, working, done)


def _working(client: SyncPrefectClient, deployment: UUID) -> UUID:
    """A run as a worker has it, half done."""
    run = client.create_flow_run_from_deployment(deployment, parameters=PARAMETERS).id
    client.set_flow_run_state(run, Running(), force=True)
    for key, percent in (("denoised", 50.0), ("encoded", 0.0)):
        client.create_artifact(ArtifactCreate(key=key, type="progress", data=percent, description=key, flow_run_id=run))
    return run
