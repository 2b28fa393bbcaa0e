"""The job variables of a run that is still in the queue, before its whole configuration is worth resolving."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.exceptions import ObjectNotFound

REMEMBERED_S = 5.0
REMEMBERED_MAX = 256


class JobVariables:
    """Reads them from pool, deployment and run, in that order; a deployment's are remembered for REMEMBERED_S."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._deployments: dict[UUID, tuple[float, dict[str, Any]]] = {}

    async def of(self, run: FlowRun, pool: WorkPool) -> dict[str, Any]:
        """Name -> value. Raises what Prefect's client does, but not for a deployment that is gone."""
        properties = pool.base_job_template.get("variables", {}).get("properties", {})
        found = {name: field["default"] for name, field in properties.items() if "default" in field}
        if run.deployment_id is not None:
            found |= await self._of_deployment(run.deployment_id)
        return found | (run.job_variables or {})

    async def _of_deployment(self, deployment: UUID) -> dict[str, Any]:
        read_s, variables = self._deployments.get(deployment, (float("-inf"), {}))
        if time.monotonic() - read_s < REMEMBERED_S:
            return variables
        try:
            variables = dict((await self._client.read_deployment(deployment)).job_variables or {})
        except ObjectNotFound:
            variables = {}
        if len(self._deployments) >= REMEMBERED_MAX:
            self._deployments.clear()
        self._deployments[deployment] = (time.monotonic(), variables)
        return variables
