"""Runs that work on machines and snapshots, ordered once for each idempotency key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from api.http.problems import Problem
from api.runs.client import Prefect
from api.runs.run_view import RunView
from api.runs.runs import Runs

Parameters = Mapping[str, Any]


class Orders:
    """Creates runs some of whose parameters are made here (a snapshot's id, a machine's block)."""

    def __init__(self, prefect: Prefect, runs: Runs) -> None:
        self._prefect, self._runs = prefect, runs

    async def place(
        self, flow: str, key: str | None, about: str, parameters: Callable[[Parameters], Awaitable[Parameters]]
    ) -> RunView:
        """A run of a flow, or the one that was created with this key.

        about: what the client named (`instance:vast:31337`), a tag of the run. `parameters(earlier)` makes the run's
        parameters; `earlier` are those of the run that has this key, if any, to take from them what would otherwise be
        made anew. Problems: those of `Runs.create`.
        """
        earlier = await self._earlier(flow, key, about)
        given = await parameters(earlier)
        try:
            return (await self._runs.create(flow, given, idempotency_key=key, tags=[about]))[0]
        except Problem as problem:
            if key is None or earlier or problem.kind != "conflict":
                raise
        # Two requests with one key at the same moment: the run of the other one exists by now.
        given = await parameters(await self._earlier(flow, key, about))
        return (await self._runs.create(flow, given, idempotency_key=key, tags=[about]))[0]

    async def _earlier(self, flow: str, key: str | None, about: str) -> Parameters:
        if key is None:
            return {}
        wanted = {"flow_runs": {"idempotency_key": {"any_": [key]}}, "flows": {"name": {"any_": [flow]}}, "limit": 1}
        found = await self._prefect.post("/flow_runs/filter", wanted)
        if not found:
            return {}
        if about not in (found[0].get("tags") or []):
            raise Problem("conflict", "this Idempotency-Key was used with another request", run_id=found[0]["id"])
        return dict(found[0].get("parameters") or {})
