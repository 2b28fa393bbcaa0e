"""Runs of Poorwill's flows, created, shown, awaited and cancelled over Prefect's API.

All state is Prefect's: the caches here are bounded, and seconds old at most.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import httpx
from cachetools import LRUCache, TTLCache
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from api.http.problems import Problem, unavailable
from api.runs.caches import BatchReader
from api.runs.client import Prefect
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
"""How long a run that was read is shown: one that is over changes only when an operator starts it again."""
NAMES_MAX, NAMES_KEPT_S = 500, 60.0


class Runs:
    """Problems of all: not-found for a run that does not exist, unavailable without a server or a deployment."""

    def __init__(self, prefect: Prefect, settings: Settings) -> None:
        self._prefect, self._settings = prefect, settings
        self._queue, self._progress, self._videos = Queue(prefect), ProgressReader(prefect), Videos()
        self._reader: BatchReader[UUID, Run] = BatchReader(self._read, _keep_s)
        self._deployments: TTLCache[str, UUID, float] = TTLCache(NAMES_MAX, NAMES_KEPT_S)
        self._flows: LRUCache[UUID, str] = LRUCache(NAMES_MAX)

    async def close(self) -> None:
        await self._reader.close()
        await self._queue.close()
        await self._progress.close()
        self._videos.close()

    async def create(
        self, flow: str, parameters: Mapping[str, Any], *, idempotency_key: str | None, tags: Sequence[str] = ()
    ) -> tuple[RunView, bool]:
        """A new run, or the one that was created with the same key and the same parameters; and whether it is new.

        `idempotency_key` is the caller's own (`api.deps.IdempotencyKey`); it counts within one flow. Parameters that
        are None are left to the deployment. Problems: invalid-request for parameters that the flow does not take,
        conflict for a key that was used with others, queue-full.
        """
        given = {name: value for name, value in parameters.items() if value is not None}
        digest = _digest(given)
        deployment = await self._deployment(flow)
        depth = await self._queue.depth(deployment)
        if depth >= self._settings.queue_max:
            return await self._known_or_full(flow, idempotency_key, digest, depth), False
        body = {
            "parameters": given,
            # The request is sent again if its answer is lost: with a key that is one run.
            "idempotency_key": idempotency_key or uuid4().hex,
            "tags": list(tags),
            "labels": {REQUEST_LABEL: digest},
        }
        answer = await self._post(deployment, body)
        if answer.status_code == httpx.codes.NOT_FOUND:  # it was deployed anew, and has another id
            self._deployments.pop(flow, None)
            deployment = await self._deployment(flow)
            answer = await self._post(deployment, body)
        if answer.is_error:
            raise Problem("invalid-request", _refusal(answer))
        run = Run.of(answer.json())
        if answer.status_code != httpx.codes.CREATED:
            return await self._same(run, digest), False
        self._queue.created(deployment)
        return RunView.of(run, flow, position=depth + 1), True

    async def earlier(self, flow: str, idempotency_key: str | None, tag: str) -> dict[str, Any]:
        """The parameters of the run that was created with this key; empty if there is none. Problem: conflict for a
        run without that tag."""
        found = await self._of_key(flow, idempotency_key)
        if found is None:
            return {}
        if tag not in (found.get("tags") or []):
            raise _other_request(found["id"])
        return dict(found.get("parameters") or {})

    async def view(self, run_id: UUID) -> RunView:
        """The run as it was at most a moment ago."""
        return await self._view_of(await self._run(run_id))

    async def wait(self, run_id: UUID, seconds: float) -> RunView:
        """The run when it is over, or as it is after `seconds` (at most POORWILL_API_WAIT_S_MAX)."""
        ends_s = time.monotonic() + min(seconds, self._settings.wait_s_max)
        while True:
            run = await self._run(run_id)
            left_s = ends_s - time.monotonic()
            if run.status.is_over or left_s <= 0:
                return await self._view_of(run)
            await asyncio.sleep(min(0.5, left_s))

    async def cancel(self, run_id: UUID) -> RunView:
        """Ask a run to stop: one that is queued never begins, one that works ends at its next step. Idempotent; a run
        that is over stays what it is."""
        run = await self._run(run_id)
        if not run.status.is_over and run.state_type != "CANCELLING":
            try:
                await self._prefect.ask(self._prefect.client.set_flow_run_state(run_id, Cancelling()))
            except ObjectNotFound:
                raise _not_found(run_id) from None
            self._reader.forget(run_id)
        return await self.view(run_id)

    async def active(self, flow: str, limit: int, offset: int) -> list[RunView]:
        """Runs of a flow's deployment that are queued or running, in the order in which they were to begin."""
        deployment = await self._deployment_if_any(flow)
        if deployment is None:
            raise Problem("not-found", f"there is no flow '{flow}'")
        chosen = {"deployment_id": {"any_": [str(deployment)]}, "state": {"type": {"any_": list(ACTIVE_TYPES)}}}
        body = {"flow_runs": chosen, "sort": "EXPECTED_START_TIME_ASC", "limit": limit, "offset": offset}
        found = [Run.of(document) for document in await self._prefect.post("/flow_runs/filter", body)]
        return list(await asyncio.gather(*map(self._view_of, found)))

    async def _run(self, run_id: UUID) -> Run:
        run = await self._reader.get(run_id)
        if run is None:
            raise _not_found(run_id)
        return run

    async def _read(self, ids: list[UUID]) -> dict[UUID, Run]:
        body = {"flow_runs": {"id": {"any_": [str(one) for one in ids]}}, "limit": len(ids)}
        found = [Run.of(document) for document in await self._prefect.post("/flow_runs/filter", body)]
        return {run.id: run for run in found}

    async def _view_of(self, run: Run) -> RunView:
        flow, more = await self._flow_name(run.flow_id), dict[str, Any]()
        if run.status is Status.QUEUED:
            more["position"] = await self._queue.position(run)
        elif run.status is Status.RUNNING:
            more = {"step": run.step} if run.step is not None else await self._progress.of(run.id, flow)
        elif run.status is Status.DONE and flow == GENERATE:
            more = await self._video(run)
        return RunView.of(run, flow, **more)

    async def _video(self, run: Run) -> dict[str, Any]:
        media = run.media or self._settings.media
        try:
            video = await self._videos.of(run.id, media)
        except PoorwillError as error:
            log.error("the video of run %s cannot be shown: %s", run.id, error.message)
            raise Problem("internal", f"the video's media block '{media}' cannot be opened") from None
        return {"url": video.url, "poster_url": video.poster_url}

    async def _post(self, deployment: UUID, body: dict[str, Any]) -> httpx.Response:
        """The answer to a request for a run, also one that refuses it."""
        request = self._prefect.client.request(
            "POST", "/deployments/{id}/create_flow_run", path_params={"id": deployment}, json=body
        )
        try:
            return await self._prefect.ask(request)
        except httpx.HTTPStatusError as error:
            return error.response

    async def _of_key(self, flow: str, key: str | None) -> dict[str, Any] | None:
        """The run of a flow that was created with this key, as Prefect's API answers it."""
        if key is None:
            return None
        chosen = {"idempotency_key": {"any_": [key]}}
        body = {"flow_runs": chosen, "flows": {"name": {"any_": [flow]}}, "limit": 1}
        found: list[dict[str, Any]] = await self._prefect.post("/flow_runs/filter", body)
        return found[0] if found else None

    async def _known_or_full(self, flow: str, key: str | None, digest: str, depth: int) -> RunView:
        """A full queue takes no new runs, and still answers for those that it has."""
        known = await self._of_key(flow, key)
        if known is not None:
            return await self._same(Run.of(known), digest)
        detail = f"{depth} runs of {flow}/{DEPLOYMENT} are queued, as many as are allowed"
        raise Problem("queue-full", detail, retry_after_s=10.0, queued=depth)

    async def _same(self, run: Run, digest: str) -> RunView:
        if run.request != digest:
            raise _other_request(str(run.id))
        return await self._view_of(run)

    async def _deployment(self, flow: str) -> UUID:
        """Problem: unavailable, since callers cannot deploy."""
        found = await self._deployment_if_any(flow)
        if found is None:
            raise unavailable(f"{flow}/{DEPLOYMENT} is not deployed: deploy Poorwill's flows on the Prefect server")
        return found

    async def _deployment_if_any(self, flow: str) -> UUID | None:
        if (known := self._deployments.get(flow)) is not None:
            return known
        try:
            found = await self._prefect.ask(self._prefect.client.read_deployment_by_name(f"{flow}/{DEPLOYMENT}"))
        except ObjectNotFound:
            return None
        self._deployments[flow], self._flows[found.flow_id] = found.id, flow
        return found.id

    async def _flow_name(self, flow_id: UUID) -> str:
        """A flow keeps its name."""
        if (known := self._flows.get(flow_id)) is not None:
            return known
        try:
            name = self._flows[flow_id] = (await self._prefect.ask(self._prefect.client.read_flow(flow_id))).name
        except ObjectNotFound:
            return "deleted"
        return name


def _keep_s(run: Run | None) -> float:
    if run is None or not run.status.is_over:
        return KEEP_S
    return KEEP_FAILED_S if run.status is Status.FAILED else KEEP_ENDED_S


def _not_found(run_id: UUID) -> Problem:
    return Problem("not-found", f"there is no run {run_id}")


def _other_request(run_id: str) -> Problem:
    return Problem("conflict", "this Idempotency-Key was used with another request", run_id=run_id)


def _digest(parameters: dict[str, Any]) -> str:
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _refusal(answer: httpx.Response) -> str:
    """Why Prefect's server does not take the parameters."""
    try:
        detail = answer.json().get("detail")
    except (ValueError, AttributeError):
        detail = None
    text = detail if isinstance(detail, str) else f"the Prefect server refused the run ({answer.status_code})"
    return text.removeprefix("Error creating flow run: ")
