"""The gateway as a server on loopback, over the tests' Prefect server, and runs whose states a test sets."""

from __future__ import annotations

import contextvars
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
import uvicorn
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.states import Completed, Failed, Running, State

import blocks
from api.app import create_app
from api.settings import Settings
from deployments.registration.gpu_pool import create_pool, deploy
from flows.generate import generate

TOKEN, OTHER_TOKEN = "a-token-of-these-tests", "another-caller's-token".replace("'", "-")
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
ASKED = {"image_url": "https://example.com/cat.png", "prompt": "the cat turns its head"}
PATIENCE_S = 30.0
T = TypeVar("T")
_numbers = itertools.count()


def until(look: Callable[[], T], what: str) -> T:
    """The first true answer of `look`; AssertionError if there is none in time."""
    ends_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_s:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not in {PATIENCE_S:.0f} s: {what}")


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """The address of a gateway with these settings, in a thread that uses this test's Prefect server."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_config=None, ws_max_size=4096)
    )
    thread = threading.Thread(target=contextvars.copy_context().run, args=(server.run,), name="gateway")
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive(), "the gateway's start")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


class Stage:
    """`generate` deployed to a pool without a worker, and a media block: the test sets the states of runs."""

    def __init__(self, client: SyncPrefectClient, folder: Path) -> None:
        self.client, self.pool, self.media = client, f"api-{next(_numbers)}", f"api-media-{next(_numbers)}"
        create_pool(self.pool)
        self.deploy()
        place = blocks.LocalStore(directory=str(folder / "videos"))
        place.save(self.media)
        blocks.Media(store=place).save(self.media)

    def deploy(self) -> None:
        self.deployment = deploy(generate, pool=self.pool, gpus=1)

    def settings(self, **other: Any) -> Settings:
        given: dict[str, Any] = {
            "tokens": (("tests", TOKEN), ("others", OTHER_TOKEN)),
            "pool": self.pool,
            "media": self.media,
            "store": self.media,
            **other,
        }
        return Settings(**given)

    def queued(self) -> int:
        """How many runs wait."""
        chosen = {"deployment_id": {"any_": [str(self.deployment)]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
        return int(self.client.request("POST", "/flow_runs/count", json={"flow_runs": chosen}).json())  # type: ignore[arg-type]

    def empty(self) -> None:
        """Let all runs that wait fail."""
        chosen = {"deployment_id": {"any_": [str(self.deployment)]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
        body = {"flow_runs": chosen, "limit": 200}
        while found := self.client.request("POST", "/flow_runs/filter", json=body).json():  # type: ignore[arg-type]
            for run in found:
                self.set(UUID(run["id"]), Failed(message="swept"))

    def set(self, run: UUID, state: State[Any]) -> None:
        self.client.set_flow_run_state(run, state, force=True)

    def runs(self, run: UUID, percent: float | None = None, said: str = "denoised") -> None:
        """Let it run, with so much of denoising done, if any."""
        self.set(run, Running())
        if percent is not None:
            self.shows(run, "denoised", percent, said)
            self.shows(run, "encoded", 0.0, "encoded")

    def shows(self, run: UUID, measure: str, percent: float, said: str) -> None:
        """A progress artifact, as the flow's own."""
        self.client.create_artifact(
            ArtifactCreate(key=measure, type="progress", data=percent, description=said, flow_run_id=run)
        )

    def done(self, run: UUID) -> None:
        self.set(run, Completed())


@contextmanager
def calling(address: str, token: str | None = TOKEN) -> Iterator[httpx.Client]:
    """A client of a gateway."""
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False) as client:
        yield client


def kind_of(answer: httpx.Response) -> str:
    """The kind of problem that an answer is."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document = answer.json()
    assert document["status"] == answer.status_code and document["title"], document
    assert document["request_id"] == answer.headers["x-request-id"]
    return str(document["type"]).removeprefix("https://poorwill.dev/problems/")
