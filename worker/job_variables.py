"""The job variables of a run that is still in the queue, before its whole configuration is worth resolving."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from cachetools import TTLCache
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.exceptions import ObjectNotFound

REMEMBERED_S = 5.0
REMEMBERED_MAX = 256


class JobVariables:
    """Reads them from pool, deployment and run, each before the next; a deployment's are kept for REMEMBERED_S."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._deployments: TTLCache[UUID, dict[str, Any]] = TTLCache(REMEMBERED_MAX, REMEMBERED_S)

    async def of(self, run: FlowRun, pool: WorkPool) -> dict[str, Any]:
        """Name -> value; nothing of a deployment that is gone. Errors of Prefect's client."""
        properties = pool.base_job_template.get("variables", {}).get("properties", {})
        found = {name: field["default"] for name, field in properties.items() if "default" in field}
        if run.deployment_id is not None:
            found |= await self._of_deployment(run.deployment_id)
        return found | (run.job_variables or {})

    async def _of_deployment(self, deployment: UUID) -> dict[str, Any]:
        variables = self._deployments.get(deployment)
        if variables is None:
            try:
                variables = dict((await self._client.read_deployment(deployment)).job_variables or {})
            except ObjectNotFound:
                variables = {}
            self._deployments[deployment] = variables
        return variables
