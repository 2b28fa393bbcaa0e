"""Runs of Poorwill's flows, created, shown, awaited and cancelled over Prefect's API.

    create(deployment, parameters, idempotency_key=...)     deployment: `<flow>/poorwill`
    view(run) · wait(run, seconds) · cancel(run) · active(flow, limit, offset)

Nothing is kept that Prefect does not have: what is cached is bounded, and seconds old at most.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from api.http.problems import Problem, unavailable
from api.runs.batching import BatchReader
from api.runs.client import Server, not_found
from api.runs.progress import ProgressReader
from api.runs.queue import Queue
from api.runs.run_view import REQUEST_LABEL, Run, RunView
from api.settings import Settings
from api.store.videos import Videos
from poorwill.errors import PoorwillError
from poorwill.runs import ACTIVE_TYPES, Status

log = logging.getLogger(__name__)
DEPLOYMENT = "poorwill"
GENERATE = "generate"
KEEP_S, KEEP_ENDED_S, KEEP_FAILED_S = 1.0, 30.0, 5.0
"""How long what was read of a run is good: a run that is over changes only when an operator starts it again."""
NAMES_MAX, NAMES_KEPT_S = 500, 60.0
FULL_RETRY_AFTER_S = 10.0
WAIT_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Deployment:
    """Of a flow, as Prefect knows it."""

    id: UUID
    flow_id: UUID
    read_at_s: float


class Runs:
    """See above. Problems: not-found for a run or deployment that is not there, unavailable without a server."""

    def __init__(self, server: Server, settings: Settings) -> None:
        self._server, self._settings = server, settings
        self._queue, self._progress, self._videos = Queue(server), ProgressReader(server), Videos()
        self._reader: BatchReader[UUID, Run] = BatchReader(self._read, _keep_s)
        self._deployments: dict[str, Deployment] = {}
        self._flows: dict[UUID, str] = {}

    async def close(self) -> None:
        await self._reader.close()
        await self._queue.close()
        await self._progress.close()
        self._videos.close()

    async def create(
        self,
        deployment: str,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str | None,
        tags: Sequence[str] = (),
    ) -> RunView:
        """A new run, or the one that was created with the same key and the same parameters.

        `idempotency_key` is the caller's own (`api.http.auth.idempotency_key`); it is good within one flow. Parameters
        that are None are left to the deployment. Problems: invalid-request for parameters that the flow does not take,
        conflict for a key that was used with others, queue-full.
        """
        return (await self.create_or_find(deployment, parameters, idempotency_key=idempotency_key, tags=tags))[0]

    async def create_or_find(
        self,
        deployment: str,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str | None,
        tags: Sequence[str] = (),
    ) -> tuple[RunView, bool]:
        """`create`, and whether the run is a new one."""
        given = {name: value for name, value in parameters.items() if value is not None}
        digest = _digest(given)
        found = await self._deployment(deployment)
        depth = await self._queue.depth(found.id)
        if depth >= self._settings.queue_max:
            return await self._known_or_full(found, deployment, idempotency_key, digest, depth), False
        body = {
            "parameters": given,
            # Prefect's client may send a request again whose answer was lost: with a key that is one run.
            "idempotency_key": idempotency_key or uuid4().hex,
            "tags": list(tags),
            "labels": {REQUEST_LABEL: digest},
        }
        document, is_new = await self._post(found, deployment, body)
        run = Run.of(document)
        if not is_new:
            return await self._same(run, digest), False
        self._queue.created(found.id)
        return RunView.of(run, _flow_of(deployment), position=depth + 1), True

    async def view(self, run_id: UUID) -> RunView:
        """The run as it was at most a moment ago."""
        return await self._dressed(await self._run(run_id))

    async def wait(self, run_id: UUID, seconds: float) -> RunView:
        """The run when it is over, or as it is after `seconds` (at most POORWILL_API_WAIT_S_MAX)."""
        ends_s = time.monotonic() + min(seconds, self._settings.wait_s_max)
        while True:
            run = await self._run(run_id)
            left_s = ends_s - time.monotonic()
            if run.status.is_over or left_s <= 0:
                return await self._dressed(run)
            await asyncio.sleep(min(WAIT_POLL_S, left_s))

    async def cancel(self, run_id: UUID) -> RunView:
        """Ask a run to stop: one that is queued never begins, one that works ends at its next step. Idempotent; a run
        that is over stays what it is."""
        run = await self._run(run_id)
        if not run.status.is_over and run.state_type != "CANCELLING":
            try:
                await self._server.ask(self._server.client.set_flow_run_state(run_id, Cancelling()))
            except ObjectNotFound:
                raise not_found(run_id) from None
            self._reader.forget(run_id)
        return await self.view(run_id)

    async def active(self, flow: str, limit: int, offset: int) -> list[RunView]:
        """Runs of a flow's deployment that are queued or running, in the order in which they were to begin."""
        deployment = await self._deployment_if_any(f"{flow}/{DEPLOYMENT}")
        if deployment is None:
            raise Problem(404, "not-found", detail=f"there is no flow '{flow}'")
        chosen = {"deployment_id": {"any_": [str(deployment.id)]}, "state": {"type": {"any_": list(ACTIVE_TYPES)}}}
        body = {"flow_runs": chosen, "sort": "EXPECTED_START_TIME_ASC", "limit": limit, "offset": offset}
        found = [Run.of(document) for document in await self._server.post("/flow_runs/filter", body)]
        return list(await asyncio.gather(*map(self._dressed, found)))

    async def _run(self, run_id: UUID) -> Run:
        run = await self._reader.get(run_id)
        if run is None:
            raise not_found(run_id)
        return run

    async def _read(self, ids: list[UUID]) -> dict[UUID, Run]:
        body = {"flow_runs": {"id": {"any_": [str(one) for one in ids]}}, "limit": len(ids)}
        found = [Run.of(document) for document in await self._server.post("/flow_runs/filter", body)]
        return {run.id: run for run in found}

    async def _dressed(self, run: Run) -> RunView:
        flow, more = await self._flow_name(run.flow_id), {}
        if run.status is Status.QUEUED:
            more["position"] = await self._queue.position(run)
        elif run.status is Status.RUNNING:
            shown = await self._progress.of(run.id, flow) if run.step is None else None
            more = {"step": run.step} if shown is None else shown.fields()
        elif run.status is Status.DONE and flow == GENERATE:
            more = await self._video(run)
        return RunView.of(run, flow, **more)

    async def _video(self, run: Run) -> dict[str, Any]:
        media = run.media or self._settings.media
        try:
            video = await self._videos.of(run.id, media)
        except PoorwillError as error:
            log.error("the video of run %s cannot be shown: %s", run.id, error.message)
            raise Problem(502, "internal", detail=f"the video's media block '{media}' cannot be opened") from None
        return {"url": video.url, "poster_url": video.poster_url}

    async def _post(self, found: Deployment, name: str, body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """What was created or found, and which of them it was. A deployment that was deployed anew has another id."""
        for attempt in (1, 2):
            try:
                request = self._server.client.request(
                    "POST", "/deployments/{id}/create_flow_run", path_params={"id": found.id}, json=body
                )
                answer = await self._server.ask(request)
                return answer.json(), answer.status_code == httpx.codes.CREATED
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.NOT_FOUND and attempt == 1:
                    self._deployments.pop(name, None)
                    found = await self._deployment(name)
                    continue
                raise Problem(422, "invalid-request", detail=_refusal(error.response)) from None
        raise AssertionError("unreachable")

    async def _known_or_full(self, found: Deployment, name: str, key: str | None, digest: str, depth: int) -> RunView:
        """A full queue takes no new runs, and still answers for those that it has."""
        if key is not None:
            chosen = {"idempotency_key": {"any_": [key]}, "deployment_id": {"any_": [str(found.id)]}}
            known = await self._server.post("/flow_runs/filter", {"flow_runs": chosen, "limit": 1})
            if known:
                return await self._same(Run.of(known[0]), digest)
        detail = f"{depth} runs of {name} are queued, as many as are allowed"
        raise Problem(429, "queue-full", detail=detail, retry_after_s=FULL_RETRY_AFTER_S, queued=depth)

    async def _same(self, run: Run, digest: str) -> RunView:
        if run.request != digest:
            raise Problem(
                409, "conflict", detail="this Idempotency-Key was used with another request", run_id=str(run.id)
            )
        return await self._dressed(run)

    async def _deployment(self, name: str) -> Deployment:
        """By its name, which is `<flow>/<deployment>`. Problem: unavailable, since callers cannot deploy."""
        found = await self._deployment_if_any(name)
        if found is None:
            raise unavailable(f"{name} is not deployed: deploy Poorwill's flows on the Prefect server")
        return found

    async def _deployment_if_any(self, name: str) -> Deployment | None:
        known = self._deployments.get(name)
        if known is not None and known.read_at_s + NAMES_KEPT_S > time.monotonic():
            return known
        try:
            found = await self._server.ask(self._server.client.read_deployment_by_name(name))
        except ObjectNotFound:
            return None
        if len(self._deployments) >= NAMES_MAX:
            self._deployments.clear()
        known = self._deployments[name] = Deployment(found.id, found.flow_id, time.monotonic())
        self._flows[known.flow_id] = _flow_of(name)
        return known

    async def _flow_name(self, flow_id: UUID) -> str:
        """Flows keep their names."""
        if (name := self._flows.get(flow_id)) is None:
            try:
                name = (await self._server.ask(self._server.client.read_flow(flow_id))).name
            except ObjectNotFound:
                return "deleted"
            if len(self._flows) >= NAMES_MAX:
                self._flows.clear()
            self._flows[flow_id] = name
        return name


def _keep_s(run: Run | None) -> float:
    if run is None or not run.status.is_over:
        return KEEP_S
    return KEEP_FAILED_S if run.status is Status.FAILED else KEEP_ENDED_S


def _flow_of(deployment: str) -> str:
    return deployment.partition("/")[0]


def _digest(parameters: dict[str, Any]) -> str:
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _refusal(answer: httpx.Response) -> str:
    """What Prefect's server says against the parameters."""
    try:
        detail = answer.json().get("detail")
    except (ValueError, AttributeError):
        detail = None
    text = detail if isinstance(detail, str) else f"the Prefect server refused the run ({answer.status_code})"
    return text.removeprefix("Error creating flow run: ")
