"""Flow runs on a Prefect server: create, read, list and cancel them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from poorwill.cli.server import Server
from poorwill.errors import NotFound, ServerRefused, UsageError
from poorwill.runs import ACTIVE_TYPES, Progress, Status, status_of

DEPLOYMENT = "poorwill"
PAGE = 200
"""The most that Prefect answers at once."""
MACHINES_MAX = 10_000
_SOON = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Run:
    """A flow run at the time it was read. Times are POSIX seconds."""

    id: str
    name: str
    flow_id: str
    state: str
    state_type: str
    message: str
    parameters: dict[str, Any]
    pool: str
    expected_s: float | None
    began_s: float | None
    ended_s: float | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> Run:
        """From Prefect's answer; ServerRefused if that is not a flow run."""
        state = row.get("state")
        state = state if isinstance(state, dict) else {}
        if not isinstance(row.get("id"), str):
            raise ServerRefused("the Prefect server answered with something other than a flow run: is it version 3?")
        parameters = row.get("parameters")
        return cls(
            id=row["id"],
            name=str(row.get("name") or ""),
            flow_id=str(row.get("flow_id") or ""),
            state=str(state.get("name") or row.get("state_name") or "Scheduled"),
            state_type=str(state.get("type") or row.get("state_type") or "SCHEDULED"),
            message=str(state.get("message") or ""),
            parameters=parameters if isinstance(parameters, dict) else {},
            pool=str(row.get("work_pool_name") or ""),
            expected_s=_seconds(row.get("expected_start_time")),
            began_s=_seconds(row.get("start_time")),
            ended_s=_seconds(row.get("end_time")),
        )

    @property
    def status(self) -> Status:
        return status_of(self.state_type)


@dataclass(frozen=True, slots=True)
class Deployment:
    """`<flow>/poorwill`, with the names of its parameters."""

    id: str
    flow: str
    pool: str
    parameters: frozenset[str] = field(default_factory=frozenset)

    def check(self, parameters: Iterable[str]) -> None:
        """UsageError for a parameter that the flow does not have: the server would accept it, and the run fail."""
        for name in parameters:
            if name not in self.parameters:
                known = ", ".join(sorted(self.parameters))
                raise UsageError(f"the flow {self.flow} that is deployed has no parameter '{name}': it has {known}")


class Runs:
    """The runs of Poorwill's flows on one server. Every method raises what `Server.ask` raises."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def deployment(self, flow: str) -> Deployment:
        """NotFound, which says how to deploy it."""
        try:
            found = self.server.ask("GET", f"/deployments/name/{flow}/{DEPLOYMENT}")
        except NotFound:
            where = self.server.address.api_url
            raise NotFound(
                f"{flow}/{DEPLOYMENT} is not deployed to {where}: run `poorwill up` for a local stack, or "
                "`prefect deploy --all` in a checkout"
            ) from None
        schema = found.get("parameter_openapi_schema") or {}
        return Deployment(
            str(found["id"]), flow, str(found.get("work_pool_name") or ""), frozenset(schema.get("properties") or ())
        )

    def create(self, deployment: Deployment, parameters: dict[str, Any], idempotency_key: str | None = None) -> Run:
        """The run of that key: a new one, or the one that it was given to before. UsageError with the reason."""
        body = {"parameters": parameters, "idempotency_key": idempotency_key or str(uuid.uuid4())}
        return Run.of(self.server.ask("POST", f"/deployments/{deployment.id}/create_flow_run", body))

    def read(self, run: str) -> Run:
        """NotFound."""
        return Run.of(self.server.ask("GET", f"/flow_runs/{run}"))

    def cancel(self, run: str) -> Run:
        """Ask a run to stop. Idempotent; a run that is over stays as it is. Returns the run afterwards."""
        found = self.read(run)
        if found.status.is_over or found.state_type == "CANCELLING":
            return found
        state = {"type": "CANCELLING", "name": "Cancelling", "message": "asked for by `poorwill runs cancel`"}
        self.server.ask("POST", f"/flow_runs/{found.id}/set_state", {"state": state})
        return self.read(run)

    def recent(self, limit: int, flow: str | None = None) -> list[Run]:
        """Runs that are queued or running, and the last of all, newest first; without those scheduled for later."""
        soon = (datetime.now(timezone.utc) + _SOON).isoformat()
        due: dict[str, Any] = {"expected_start_time": {"before_": soon}}
        active = {**due, "state": {"type": {"any_": list(ACTIVE_TYPES)}}}
        found = {
            run.id: run for wanted, most in ((active, PAGE), (due, limit)) for run in self._page(wanted, most, flow)
        }
        return sorted(found.values(), key=lambda run: (run.expected_s or 0.0, run.id), reverse=True)

    def _page(self, wanted: dict[str, Any], limit: int, flow: str | None) -> list[Run]:
        body: dict[str, Any] = {"flow_runs": wanted, "deployments": {"name": {"any_": [DEPLOYMENT]}}}
        if flow is not None:
            body["flows"] = {"name": {"any_": [flow]}}
        rows = self.server.all("/flow_runs", **body, sort="EXPECTED_START_TIME_DESC", limit=min(limit, PAGE))
        return [Run.of(row) for row in rows]

    def children(self, run: str) -> list[Run]:
        """The runs that it started, in the order of their names."""
        wanted = {"parent_flow_run_id": {"any_": [run]}}
        return [Run.of(row) for row in self.server.all("/flow_runs", flow_runs=wanted, sort="NAME_ASC", limit=PAGE)]

    def flow_names(self, flow_ids: Iterable[str]) -> dict[str, str]:
        wanted = sorted(set(flow_ids))[:PAGE]
        if not wanted:
            return {}
        rows = self.server.all("/flows", flows={"id": {"any_": wanted}}, limit=PAGE)
        return {str(row.get("id")): str(row.get("name")) for row in rows}

    def artifacts(self, runs: Sequence[str], *types: str) -> list[dict[str, Any]]:
        """Of these types, the last that were made first."""
        wanted = {"flow_run_id": {"any_": list(runs)}, "type": {"any_": list(types)}}
        return self.server.all("/artifacts", artifacts=wanted, sort="CREATED_DESC", limit=PAGE) if runs else []

    def progress(self, runs: Sequence[str]) -> dict[str, list[Progress]]:
        """What each of them shows, by name. A run that began again made its artifacts anew: the last of each counts."""
        found: dict[str, dict[str, Progress]] = {}
        for row in self.artifacts(runs, "progress"):
            shown = Progress.of_artifact(row)
            found.setdefault(str(row.get("flow_run_id")), {}).setdefault(shown.step, shown)
        return {run: [shown[step] for step in sorted(shown)] for run, shown in found.items()}

    def tasks(self, run: str) -> list[dict[str, Any]]:
        wanted = {"flow_run_id": {"any_": [run]}}
        return self.server.all("/task_runs", task_runs=wanted, sort="EXPECTED_START_TIME_DESC", limit=PAGE)

    def workers_online(self, pool: str) -> int:
        """How many workers take runs from a pool, by their heartbeats."""
        rows = self.server.all(f"/work_pools/{pool}/workers", limit=PAGE)
        return sum(row.get("status") == "ONLINE" for row in rows)

    def machines(self) -> list[dict[str, Any]]:
        """The documents of all machines' blocks, without their secrets, by name."""
        wanted = {"slug": {"any_": ["poorwill-machine"]}}
        found: list[dict[str, Any]] = []
        while len(found) < MACHINES_MAX:
            page = self.server.all(
                "/block_documents", block_types=wanted, include_secrets=False, limit=PAGE, offset=len(found),
                sort="NAME_ASC",
            )  # fmt: skip
            found += page
            if len(page) < PAGE:
                break
        return found


def checked_run_id(text: str) -> str:
    """A run's id, or UsageError."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise UsageError(f"'{text[:80]}' is not the id of a run: `poorwill runs` lists them") from None


def _seconds(text: Any) -> float | None:
    """POSIX seconds of an ISO time, whose Z Python 3.10 does not read."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp() if text else None
    except ValueError:
        return None
