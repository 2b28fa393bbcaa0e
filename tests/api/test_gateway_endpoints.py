"""The endpoints of generation on a real Prefect server. The tests do what a worker would do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.states import AwaitingRetry, Cancelled, Crashed, Failed, Pending

from deployments.servers.prefect_server import PrefectServer
from tests.support.api_gateway import ASKED, OTHER_TOKEN, Stage, calling, kind_of, served, until

NOBODY = uuid4()


@pytest.fixture(scope="module")
def stage(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with get_client(sync_client=True) as client:
        yield Stage(client, tmp_path_factory.mktemp("gateway"))


@pytest.fixture(scope="module")
def address(stage: Stage) -> Iterator[str]:
    with served(stage.settings()) as at:
        yield at


@pytest.fixture
def api(address: str, stage: Stage) -> Iterator[httpx.Client]:
    """A client of the gateway; the queue is empty."""
    stage.empty()
    with calling(address) as client:
        yield client


def run(api: httpx.Client, key: str | None = None, **other: Any) -> UUID:
    answer = api.post("/run", json=ASKED | other, headers={"Idempotency-Key": key} if key else {})
    assert answer.status_code in (200, 202), answer.text
    return UUID(answer.json()["id"])


def status(api: httpx.Client, run_id: UUID) -> dict[str, Any]:
    answer = api.get("/status", params={"id": str(run_id)})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def shown(api: httpx.Client, run_id: UUID, **wanted: Any) -> dict[str, Any]:
    """The status once it has these fields: the gateway keeps what it read for a moment."""

    def look() -> dict[str, Any] | None:
        found = status(api, run_id)
        return found if all(found.get(name) == value for name, value in wanted.items()) else None

    return until(look, f"{wanted} of {run_id}")


def test_parameters_reach_the_flow(api: httpx.Client, stage: Stage) -> None:
    """All parameters, the operator's media and usual model, the tag of a run that has a webhook; fields that were left
    out are left to the model."""
    asked = {**ASKED, "negative_prompt": "text", "seed": 7, "num_frames": 9, "height": 64, "width": 96, "steps": 3,
             "guidance": 2.5, "fps": 8, "timeout_s": 60, "webhook_url": "https://example.com/done?for=me"}  # fmt: skip
    answer = api.post("/run", json=asked)
    assert answer.status_code == 202 and set(answer.json()) == {"id", "status", "position"}
    assert answer.json()["status"] == "queued" and answer.headers["location"] == f"/status?id={answer.json()['id']}"
    made = stage.client.read_flow_run(UUID(answer.json()["id"]))
    assert made.parameters == {**asked, "model": "video", "media": stage.media}
    assert "webhook" in made.tags and made.deployment_id == stage.deployment
    plain = stage.client.read_flow_run(run(api, model="other"))
    assert plain.parameters == {**ASKED, "model": "other", "media": stage.media} and "webhook" not in plain.tags


def test_the_course_of_a_run(api: httpx.Client, stage: Stage) -> None:
    """Queued with its place, each step with its progress and time to go, and at last its video's addresses."""
    made = run(api)
    first = status(api, made)
    assert (first["flow"], first["status"], first["position"]) == ("generate", "queued", 1)
    stage.set(made, Pending())
    assert shown(api, made, status="queued", position=1) and "step" not in status(api, made)
    stage.runs(made)
    assert shown(api, made, step="download")["progress"] == 0
    stage.runs(made, 10.0, "denoised 3/30 steps; 42 s to go")
    denoising = shown(api, made, step="denoise 3/30")
    assert (denoising["eta_s"], denoising["progress"]) == (42, pytest.approx(0.135))
    stage.shows(made, "denoised", 100.0, "denoised 30/30 steps")
    stage.shows(made, "encoded", 50.0, "encoded 8/16 frames; 2 s to go")
    encoding = shown(api, made, step="encode")
    assert encoding["eta_s"] == 2 and denoising["progress"] < encoding["progress"] < 1
    stage.shows(made, "encoded", 100.0, "encoded 16/16 frames")
    assert shown(api, made, step="upload")["progress"] < 1
    stage.done(made)
    over = shown(api, made, status="done")
    assert over["url"].endswith(f"/videos/{made}/video.mp4") and over["poster_url"].endswith(f"{made}/poster.jpg")
    assert not {"position", "step", "progress", "error"} & set(over) and over["ended_at"] >= over["started_at"]
    assert api.get(f"/runs/{made}").json() == over


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (Failed(message="UsageError: num_frames=6: must be 4k+1: 5 or 9"),
         {"type": "UsageError", "kind": "invalid-request", "message": "num_frames=6: must be 4k+1: 5 or 9"}),
        (Failed(message="SourceUnavailable: http://e/x?token=secret did not answer\nnow"),
         {"type": "SourceUnavailable", "kind": "unavailable", "message": "http://e/x?*** did not answer\\x0anow"}),
        (Failed(message="Flow run encountered an exception: ValueError: x"),
         {"type": "Failed", "kind": "internal", "message": "Flow run encountered an exception: ValueError: x"}),
        (Failed(message="ValueError: x"), {"type": "ValueError", "kind": "internal", "message": "x"}),
        (Crashed(message="its worker is gone"),
         {"type": "Crashed", "kind": "internal", "message": "its worker is gone"}),
    ],
    ids=["user's", "transient", "ours", "unknown", "crashed"],
)  # fmt: skip
def test_why_a_run_failed(api: httpx.Client, stage: Stage, state: Any, error: dict[str, str]) -> None:
    """The error's name, its kind, and one line without secrets."""
    made = run(api)
    stage.runs(made)
    stage.set(made, state)
    assert shown(api, made, status="failed")["error"] == error


def test_places_in_the_queue(api: httpx.Client, stage: Stage) -> None:
    """Each run has its own; when the first begins, the others move up. A run that is tried again is queued, too."""
    made = [run(api, seed=number) for number in range(4)]
    assert [status(api, one)["position"] for one in made] == [1, 2, 3, 4]
    stage.runs(made[0])
    for place, one in enumerate(made[1:], 1):
        shown(api, one, position=place)
    stage.set(made[0], AwaitingRetry())
    assert shown(api, made[0], status="queued")["position"] >= 1


def test_queued_and_running_runs(api: httpx.Client, stage: Stage) -> None:
    """Page by page in their order, without runs that are over; other flows on request."""
    made = [run(api, seed=number) for number in range(5)]
    stage.runs(made[0], 50.0)
    stage.done(made[1])
    active = [str(one) for one in (made[0], *made[2:])]

    def pages() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        offset: int | None = 0
        while offset is not None:
            page = api.get("/processes", params={"limit": 3, "offset": offset}).json()
            assert len(page["processes"]) <= 3
            found, offset = found + page["processes"], page.get("next_offset")
        return found

    found = pages()
    mine = [one for one in found if one["id"] in active]
    assert [one["id"] for one in mine] == active and str(made[1]) not in {one["id"] for one in found}
    assert mine[0]["status"] == "running" and mine[0]["step"] == "denoise" and mine[0]["progress"] > 0.4
    assert [one["position"] for one in mine[1:]] == [1, 2, 3]
    stage.done(made[0])


def test_cancelling(api: httpx.Client, stage: Stage) -> None:
    """A queued run never begins; a running one is asked to stop; twice is the same as once; a run that is over stays
    as it is."""
    queued, running, done = (run(api, seed=number) for number in range(3))
    assert status(api, queued)["status"] == "queued"  # this must not be shown after the run was cancelled
    for _ in range(2):
        answer = api.delete(f"/processes/{queued}")
        assert answer.status_code == 200 and answer.json()["status"] == "cancelled"
    stage.runs(running, 50.0)
    for _ in range(2):
        answer = api.delete(f"/processes/{running}").json()
        assert (answer["status"], answer["step"]) == ("running", "cancel")
    stage.set(running, Cancelled())
    assert shown(api, running, status="cancelled")
    stage.done(done)
    assert api.delete(f"/processes/{done}").json()["status"] == "done"
    assert kind_of(api.delete(f"/processes/{NOBODY}")) == "not-found"


def test_an_idempotency_key(api: httpx.Client, address: str, stage: Stage) -> None:
    """The same key and body, many at once: one run, and 200 for all but the one that made it. Another body is refused,
    another caller's key is another key, and the run answers whatever became of it."""
    with ThreadPoolExecutor(8) as many:
        answers = list(many.map(lambda _: api.post("/run", json=ASKED, headers={"Idempotency-Key": "k"}), range(8)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    made = UUID(answers[0].json()["id"])
    refused = api.post("/run", json=ASKED | {"seed": 1}, headers={"Idempotency-Key": "k"})
    assert (refused.status_code, kind_of(refused)) == (409, "conflict") and refused.json()["run_id"] == str(made)
    with calling(address, OTHER_TOKEN) as other:
        assert run(other, "k") != made
    stage.done(made)
    again = until(lambda: (a := api.post("/run", json=ASKED, headers={"Idempotency-Key": "k"})) and a, "an answer")
    assert again.json() == {"id": str(made), "status": "done"}
    assert run(api) != run(api)


def test_a_full_queue(stage: Stage) -> None:
    """429 queue-full with Retry-After, and no run; for a run that was made before, its key still answers."""
    stage.empty()
    with served(stage.settings(queue_max=2)) as at, calling(at) as api:
        made = run(api, "first")
        run(api)
        answer = api.post("/run", json=ASKED)
        assert (answer.status_code, kind_of(answer)) == (429, "queue-full")
        assert int(answer.headers["retry-after"]) >= 1 and answer.json()["queued"] == stage.queued() == 2
        assert run(api, "first") == made
        stage.runs(made)
        until(lambda: api.post("/run", json=ASKED).status_code == 202, "a place in the queue")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"image_url": None}, "image_url"),
        ({"seed": -1}, "seed"),
        ({"seed": "7; drop"}, "seed"),
        ({"fps": 1e9}, "fps"),
        ({"prompt": "a\0b"}, "prompt"),
        ({"model": "../etc"}, "model"),
        ({"webhook_url": "file:///etc/passwd"}, "webhook_url"),
        ({"promt": "typo"}, "promt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_requests(api: httpx.Client, stage: Stage, change: dict[str, Any], field: str) -> None:
    """422 that names the field and repeats nothing of what was sent; no run is created."""
    answer = api.post("/run", json=ASKED | change)
    assert (answer.status_code, kind_of(answer)) == (422, "invalid-request")
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert "drop" not in answer.text and "passwd" not in answer.text and stage.queued() == 0


def test_parameters_that_the_flow_does_not_take(api: httpx.Client, stage: Stage) -> None:
    """Parameters that Prefect's own check refuses are an invalid request, too."""
    before = stage.client.read_deployment(stage.deployment).parameter_openapi_schema
    narrower = {**before, "properties": {**before["properties"], "prompt": {"type": "string", "maxLength": 3}}}
    stage.client.request("PATCH", f"/deployments/{stage.deployment}", json={"parameter_openapi_schema": narrower})  # type: ignore[arg-type]
    try:
        answer = api.post("/run", json=ASKED)
        assert (answer.status_code, kind_of(answer)) == (422, "invalid-request") and "prompt" in answer.json()["detail"]
    finally:
        stage.client.request("PATCH", f"/deployments/{stage.deployment}", json={"parameter_openapi_schema": before})  # type: ignore[arg-type]


def test_unknown_runs(api: httpx.Client) -> None:
    """404 for an unknown id, 422 for anything that is not an id."""
    for path in (f"/status?id={NOBODY}", f"/runs/{NOBODY}", f"/runs/{NOBODY}/events"):
        answer = api.get(path)
        assert (answer.status_code, kind_of(answer)) == (404, "not-found")
    for path in ("/status", "/status?id=7", "/runs/7", "/runs/7/events"):
        assert kind_of(api.get(path)) == "invalid-request"
    assert kind_of(api.get("/nowhere")) == "not-found"
    answer = api.put("/run")
    assert (answer.status_code, kind_of(answer)) == (405, "invalid-request")


def test_many_gateways_are_one(stage: Stage) -> None:
    """A run that one process created is shown and cancelled by another, which knows its key: no process keeps state."""
    stage.empty()
    with served(stage.settings()) as one, calling(one) as first:
        made = run(first, "kept")
    with served(stage.settings()) as two, calling(two) as second:
        assert status(second, made)["position"] == 1 and run(second, "kept") == made
        assert second.delete(f"/processes/{made}").json()["status"] == "cancelled"


def test_a_flow_that_is_not_deployed(api: httpx.Client, stage: Stage) -> None:
    """not-found where the caller names it; unavailable for `generate`, which the operator has to deploy."""
    assert kind_of(api.get("/processes", params={"flow": "no-such-flow"})) == "not-found"
    stage.client.delete_deployment(stage.deployment)
    try:
        with served(stage.settings()) as at, calling(at) as other:
            answer = other.post("/run", json=ASKED)
            assert (answer.status_code, kind_of(answer)) == (503, "unavailable")
            assert "generate/poorwill is not deployed" in answer.json()["detail"]
    finally:
        stage.deploy()
    assert run(api)  # the id that it knew is no more
