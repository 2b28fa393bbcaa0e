"""Following a run over server-sent events and WebSockets, also while Prefect's server is away."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, Failed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from api.http.problems import Problem
from api.runs.caches import BatchReader
from api.runs.run_view import RunView
from api.runs.transport import WriteGate
from api.runs.watching import Follower, Watchers
from deployments.servers.prefect_server import PrefectServer
from poorwill.runs import Status
from tests.support.api_gateway import ASKED, AUTHORIZED, TOKEN, Stage, calling, kind_of, served, until


@pytest.fixture(scope="module")
def stage(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with get_client(sync_client=True) as client:
        yield Stage(client, tmp_path_factory.mktemp("gateway"))


@pytest.fixture(scope="module")
def address(stage: Stage) -> Iterator[str]:
    with served(stage.settings(heartbeat_s=0.3, streams_max=3, prefect_timeout_s=1.0)) as at:
        yield at


@pytest.fixture
def api(address: str, stage: Stage) -> Iterator[httpx.Client]:
    stage.empty()
    with calling(address) as client:
        yield client


def run(api: httpx.Client) -> UUID:
    return UUID(api.post("/run", json=ASKED).json()["id"])


def views(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The data of server-sent events."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def socket_url(address: str, run_id: object) -> str:
    return f"{address.replace('http', 'ws')}/ws/runs/{run_id}"


def test_events_of_a_run(api: httpx.Client, stage: Stage) -> None:
    """Each state as it comes, heartbeats in between, and the end with the run; a client that connects again after
    that gets 204."""
    made = run(api)
    with api.stream("GET", f"/runs/{made}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        told = views(lines)
        assert next(told)["position"] == 1
        assert until(lambda: next(lines).startswith(":"), "a heartbeat")
        stage.runs(made, 50.0, "denoised 2/4 steps; 9 s to go")
        assert next(one for one in told if one.get("step") == "denoise 2/4")["eta_s"] == 9
        stage.set(made, Failed(message="UsageError: no"))
        assert [one["status"] for one in told][-1] == "failed"
    again = api.get(f"/runs/{made}/events")
    assert again.text.startswith("id: end\nevent: run\ndata: ") and again.text.count("data:") == 1
    assert api.get(f"/runs/{made}/events", headers={"Last-Event-ID": "end"}).status_code == 204


def test_a_socket(api: httpx.Client, address: str, stage: Stage) -> None:
    """The same, with the token in the header, or in the subprotocol as browsers do it; closed with 1000 at the end."""
    made = run(api)
    browser = connect(socket_url(address, made), subprotocols=[Subprotocol("bearer"), Subprotocol(TOKEN)], proxy=None)
    with browser, connect(socket_url(address, made), additional_headers=AUTHORIZED, proxy=None) as other:
        assert browser.subprotocol == "bearer" and other.subprotocol is None
        assert [json.loads(socket.recv(20))["status"] for socket in (browser, other)] == ["queued", "queued"]
        stage.runs(made)
        stage.done(made)
        for socket in (browser, other):
            assert [json.loads(text)["status"] for text in socket][-1] == "done"
            assert socket.close_code == 1000


def test_refused_sockets(api: httpx.Client, address: str) -> None:
    """A problem instead of a socket: no token, one in the query, an unknown run, and more streams than are allowed."""

    def refused(run_id: object, headers: dict[str, str], query: str = "") -> tuple[int, str]:
        with pytest.raises(InvalidStatus) as error:
            connect(socket_url(address, run_id) + query, additional_headers=headers, proxy=None)
        answer = error.value.response
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, json.loads(answer.body)["type"].rpartition("/")[2]

    made = run(api)
    assert refused(made, {}) == (401, "unauthorized")
    assert refused(made, {}, f"?token={TOKEN}") == (401, "unauthorized")
    assert refused(uuid4(), AUTHORIZED) == (404, "not-found")
    streams = [api.stream("GET", f"/runs/{made}/events") for _ in range(3)]
    try:
        lines = [stream.__enter__().iter_lines() for stream in streams]
        assert all(next(one).startswith("event: run") for one in lines)
        assert refused(made, AUTHORIZED) == (429, "too-many-requests")
        full = api.get(f"/runs/{made}/events")
        assert (full.status_code, kind_of(full)) == (429, "too-many-requests") and full.headers["retry-after"]
    finally:
        for stream in streams:
            stream.__exit__(None, None, None)
    until(lambda: api.delete(f"/processes/{made}").json()["status"] == "cancelled", "the end")
    until(lambda: api.get(f"/runs/{made}/events").status_code == 200, "a place among the streams")


def test_a_listener_that_sends_messages(api: httpx.Client, address: str) -> None:
    """Some messages are ignored; after too many the socket is closed."""
    with connect(socket_url(address, run(api)), additional_headers=AUTHORIZED, proxy=None) as socket:
        socket.recv(20)
        for _ in range(200):
            try:
                socket.send("hello")
            except Exception:
                break
        until(lambda: socket.close_code == 1008 or _drained(socket), "the socket to be closed")


def _drained(socket: Any) -> bool:
    try:
        socket.recv(0.05)
    except TimeoutError:
        return False
    except Exception:
        pass
    return bool(socket.close_code == 1008)


def test_readiness(api: httpx.Client, stage: Stage) -> None:
    """Each check by itself: here a worker is missing, until one sends a heartbeat."""
    answer = api.get("/ready")
    assert (answer.status_code, kind_of(answer)) == (503, "unavailable")
    checks = answer.json()["checks"]
    assert {name: check["ok"] for name, check in checks.items()} == {
        "prefect": True, "store": True, "media": True, "worker": False,
    }  # fmt: skip
    assert answer.json()["detail"] == f"worker: no worker of the pool '{stage.pool}' is online"
    heartbeat = {"name": "somebody", "heartbeat_interval_seconds": 30}
    stage.client.request("POST", f"/work_pools/{stage.pool}/workers/heartbeat", json=heartbeat)  # type: ignore[arg-type]
    until(lambda: api.get("/ready").status_code == 200, "readiness")
    assert api.get("/ready").json()["status"] == "ready"


def test_while_the_server_is_away(api: httpx.Client, stage: Stage, prefect_server: PrefectServer) -> None:
    """Killed meanwhile: what was read a moment ago may still be shown, all else is 503 in bounded time; streams stay
    open, and go on when it is back, with every run."""
    made, kept = run(api), run(api)
    with api.stream("GET", f"/runs/{made}/events") as stream:
        told = views(stream.iter_lines())
        assert next(told)["status"] == "queued"
        prefect_server.kill()
        try:
            answer = until(lambda: (a := api.get(f"/status?id={kept}")).status_code == 503 and a, "no answer")
            assert kind_of(answer) == "unavailable" and answer.headers["retry-after"]
            for other in (api.post("/run", json=ASKED), api.get("/processes"), api.delete(f"/processes/{uuid4()}")):
                assert (other.status_code, kind_of(other)) == (503, "unavailable")
                assert other.elapsed.total_seconds() < 4
            assert api.get("/health").status_code == 200
        finally:
            starting = threading.Thread(target=contextvars.copy_context().run, args=(prefect_server.start,))
            starting.start()
            starting.join()
        until(lambda: api.get(f"/status?id={kept}").status_code == 200, "an answer")
        stage.set(made, Cancelled())
        assert [one["status"] for one in told][-1] == "cancelled"


def view(status: Status) -> RunView:
    return RunView(id=uuid4(), flow="generate", status=status, created_at="2026-01-01T00:00:00Z")  # type: ignore[arg-type]


def test_a_slow_listener_gets_the_newest() -> None:
    """Only the newest view is kept for it."""

    async def scenario() -> None:
        follower = Follower()
        assert await follower.next(0.01) is None
        for status in (Status.QUEUED, Status.RUNNING, Status.DONE):
            follower.tell(view(status))
        found = await follower.next(1)
        assert found is not None and found.status is Status.DONE and await follower.next(0.01) is None
        follower.fail(Problem("not-found"))
        with pytest.raises(Problem):
            await follower.next(1)

    asyncio.run(scenario())


def test_one_watcher_for_a_run() -> None:
    """However many follow the run; it ends with the last of them, and with the run."""

    class Seen:
        def __init__(self) -> None:
            self.looks, self.now = 0, view(Status.RUNNING)

        async def view(self, run_id: UUID) -> RunView:
            self.looks += 1
            return self.now

    async def scenario() -> None:
        seen = Seen()
        watchers = Watchers(seen, 100, look_every_s=0.01)  # type: ignore[arg-type]
        run_id = uuid4()
        async with watchers.of(run_id) as one, watchers.of(run_id) as two, watchers.of(run_id):
            assert len(watchers._watchers) == 1
            assert await one.next(1) == await two.next(1) == seen.now
            seen.now = view(Status.DONE)
            assert await one.next(1) == await two.next(1) == seen.now
        assert len(watchers._watchers) == 0
        await watchers.close()

    asyncio.run(scenario())


def test_reads_are_shared() -> None:
    """A thousand callers at once cost a few reads; an answer is read again once it is too old or was forgotten."""

    async def scenario() -> None:
        now_s, reads = 0.0, list[list[int]]()

        async def read(keys: list[int]) -> dict[int, str]:
            reads.append(keys)
            await asyncio.sleep(0)
            return {key: f"{key}/{len(reads)}" for key in keys if key >= 0}

        reader: BatchReader[int, str] = BatchReader(
            read, lambda value: 5.0, batch_max=100, apart_s=0.0, entries_max=150, clock=lambda: now_s
        )
        found = await asyncio.gather(*(reader.get(key % 100) for key in range(1000)))
        assert len(reads) == 1 and len(set(found)) == 100
        assert await reader.get(7) == "7/1" and await reader.get(-1) is None
        reader.forget(7)
        assert await reader.get(7) == "7/3"
        now_s = 6.0
        assert await reader.get(8) == "8/4"
        await asyncio.gather(*(reader.get(key) for key in range(1000, 1300)))
        assert len(reader._kept) == 150 and max(map(len, reads)) == 100
        await reader.close()

    asyncio.run(scenario())


def test_reads_that_fail_and_callers_that_leave() -> None:
    """All callers that wait get the error, the next one reads again; one that gives up does not affect the others;
    and an answer that was forgotten while it was read is not kept."""

    async def scenario() -> None:
        begun, go, failing = asyncio.Event(), asyncio.Event(), True

        async def read(keys: list[int]) -> dict[int, int]:
            begun.set()
            await go.wait()
            if failing:
                raise Problem("unavailable")
            return dict.fromkeys(keys, len(keys))

        reader: BatchReader[int, int] = BatchReader(read, lambda value: 5.0, apart_s=0.0)
        go.set()
        found = await asyncio.gather(reader.get(1), reader.get(1), return_exceptions=True)
        assert all(isinstance(one, Problem) for one in found)
        failing = False
        go.clear()
        begun.clear()
        leaving, staying = asyncio.create_task(reader.get(1)), asyncio.create_task(reader.get(1))
        await begun.wait()
        leaving.cancel()
        reader.forget(1)
        go.set()
        assert await staying == 1 and 1 not in reader._kept
        await reader.close()

    asyncio.run(scenario())


def test_writes_are_sent_one_by_one_when_they_collide() -> None:
    """The limit halves with each refused write, grows slowly, and writes pass in the order in which they came."""

    async def scenario() -> None:
        gate, order = WriteGate(at_once_max=8), list[int]()
        assert gate.places.total_tokens == 4
        for _ in range(5):
            gate.narrow()
        assert gate.places.total_tokens == 1
        inside = most = 0

        async def write(number: int) -> None:
            nonlocal inside, most
            async with gate.places:
                inside += 1
                most = max(most, inside)
                order.append(number)
                await asyncio.sleep(0)
                inside -= 1

        waiting = [asyncio.create_task(write(number)) for number in range(20)]
        await asyncio.sleep(0)
        waiting[3].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert most == 1 and order == [number for number in range(20) if number != 3]
        for _ in range(25):
            gate.widen()
        assert gate.places.total_tokens == 2
        for _ in range(2000):
            gate.widen()
        assert gate.places.total_tokens == 8

    asyncio.run(scenario())
