"""The row `restarts`: 200 runs asked for over the HTTP API, and a Prefect server that is killed among them, twice."""

from __future__ import annotations

import json
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from bench.arena import say
from bench.gateway.process import gateway_process
from bench.generation import durability
from bench.generation.durability import SLOTS, Queue
from bench.generation.figures import Durable
from bench.generation.studio import MEDIA, MODEL, PROMPT, Studio
from bench.measure import CommandFailed

TINY = {"steps": 1, "num_frames": 5}
KILL_AT_CREATED, KILL_AT_MADE = 0.5, 0.3
"""The server is killed when such shares of the runs have been asked for, and of the videos are made."""
CLIENTS = 4
PATIENCE_S, RETRY_S, REQUEST_TIMEOUT_S = 120.0, 0.5, 30.0


@dataclass(slots=True)
class Client:
    """What a careful client does: it asks again, with the same key, until it is answered."""

    built: Studio
    url: str
    token: str

    def create(self, number: int) -> UUID:
        """CommandFailed if nobody answers for long, or it is refused."""
        body = {"image_url": self.built.image_url, "prompt": PROMPT, "model": MODEL, "seed": number, **TINY}
        request = urllib.request.Request(
            f"{self.url}/run",
            json.dumps(body).encode(),
            {
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
                "Idempotency-Key": f"restarts-{number}",
            },
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        ends_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                with opener.open(request, timeout=REQUEST_TIMEOUT_S) as answer:
                    return UUID(json.load(answer)["id"])
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > ends_s:
                    raise CommandFailed(f"POST /run answered {error.code}: {error.read(500)!r}") from None
            except OSError as error:
                if time.monotonic() > ends_s:
                    raise CommandFailed(f"POST /run: {error}") from None
            time.sleep(RETRY_S)


def measure(built: Studio, jobs: int) -> Durable:
    """Ask for `jobs` runs while the server is killed and started again, have a worker make their videos, and kill the
    server once more. CommandFailed if a key gave two runs, or the queue stands still."""
    with _client(built) as client:
        worker = built.worker("restarts", cpu_slots=SLOTS)
        try:
            worker.start()
            queue = Queue(built, tuple(_asked_for(client, jobs)), time.monotonic())
            queue.until_videos(round(KILL_AT_MADE * jobs))
            queue.until_busy()
            took_s = time.monotonic() - queue.began_s
            say(f"restarts: {KILL_AT_MADE:.0%} made after {took_s:.0f} s: the server is killed")
            _restart(built)
            return durability.watched(queue, time.monotonic())
        finally:
            worker.kill()


def _asked_for(client: Client, jobs: int) -> Iterator[UUID]:
    """The runs of all jobs, each asked for twice: CommandFailed unless that gives one run each."""
    begun, lock, killed = 0, threading.Lock(), threading.Event()

    def create(number: int) -> UUID:
        nonlocal begun
        with lock:
            begun += 1
            kills = begun == round(KILL_AT_CREATED * jobs)
        if kills:
            say(f"restarts: {begun} runs asked for: the server is killed")
            _restart(client.built)
            killed.set()
        return client.create(number)

    with ThreadPoolExecutor(CLIENTS) as clients:
        made = list(clients.map(create, range(jobs)))
    again = [client.create(number) for number in range(0, jobs, 10)]
    if len(set(made)) != jobs or again != made[::10] or not killed.is_set():
        raise CommandFailed(f"{jobs} idempotency keys gave {len({*made, *again})} runs")
    return iter(made)


def _restart(built: Studio) -> None:
    built.server.kill()
    built.server.start()


@contextmanager
def _client(built: Studio) -> Iterator[Client]:
    token = secrets.token_hex(16)
    settings = {
        **built.server.env(),
        "POORWILL_API_TOKENS": f"bench:{token}",
        "POORWILL_API_MEDIA": MEDIA,
        "POORWILL_API_STORE": "bench",
    }
    with gateway_process(built.folder, settings) as (_, port):
        yield Client(built, f"http://127.0.0.1:{port}", token)
