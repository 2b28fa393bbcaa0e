"""The work pool of type `gpu`, and what is deployed to it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import WorkPool
from prefect.exceptions import ObjectAlreadyExists
from prefect.types.entrypoint import EntrypointType
from prefect.workers.base import BaseWorker

from deployments.catalogue import CONTROL, DEPLOYMENT, GENERATE, POOL
from poorwill.errors import PoorwillError


def create_pool(name: str = POOL) -> WorkPool:
    """The pool and its two queues, as they are where they exist already."""
    kind = BaseWorker.get_worker_class_from_type("gpu")
    if kind is None:
        raise PoorwillError("Prefect does not know the worker type gpu: install Poorwill into this environment")
    template = kind.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=name, type="gpu", base_job_template=template))
        for queue in (GENERATE, CONTROL):
            with suppress(ObjectAlreadyExists):
                client.create_work_queue(name=queue, work_pool_name=name)
        return client.read_work_pool(name)


def deploy(
    flow: Flow[..., Any], *, pool: str = POOL, gpus: int = 0, job_variables: Mapping[str, Any] | None = None
) -> UUID:
    """Deploy a flow as `<its name>/poorwill`, to the queue `generate` if it needs a GPU, else to `control`.

    By its module's path: a file's path would put that file's folder first on sys.path. Idempotent.
    """
    deployment: Any = flow.to_deployment(
        DEPLOYMENT,
        work_pool_name=pool,
        work_queue_name=GENERATE if gpus else CONTROL,
        job_variables={"gpus": gpus, **(job_variables or {})},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return UUID(str(deployment.apply()))
