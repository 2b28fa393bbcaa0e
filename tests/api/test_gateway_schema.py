"""schemathesis over the whole OpenAPI: every answer to any request is documented, and never a 500."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from prefect.client.orchestration import get_client
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

from deployments.registration.gpu_pool import deploy
from deployments.servers.prefect_server import PrefectServer
from flows.hibernate import hibernate
from flows.snapshot import snapshot
from flows.wake import wake
from tests.support.api_gateway import AUTHORIZED, Stage, served

pytestmark = pytest.mark.long

EXAMPLES_MAX = 8
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.ignored_auth,
]


@pytest.fixture(scope="module")
def described(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The gateway's own description, over a server that has all the flows, and a worker that never takes one."""
    with get_client(sync_client=True) as client:
        stage = Stage(client, tmp_path_factory.mktemp("gateway"))
        for flow in (hibernate, snapshot, wake):
            deploy(flow, pool=stage.pool)
        heartbeat = {"name": "somebody", "heartbeat_interval_seconds": 600}
        client.request("POST", f"/work_pools/{stage.pool}/workers/heartbeat", json=heartbeat)  # type: ignore[arg-type]
        with served(stage.settings(wait_s_max=0.1, rate_per_s=1e6, rate_burst=1_000_000)) as address:
            yield schemathesis.openapi.from_url(f"{address}/openapi.json")


SETTINGS = settings(
    max_examples=EXAMPLES_MAX,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(240)
def test_every_answer_is_documented(described: Any) -> None:
    """Every operation, with values that its description allows."""
    tried = []
    for found in described.get_all_operations():
        operation = found.ok()

        @SETTINGS
        @given(case=operation.as_strategy())
        def answers(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=AUTHORIZED, checks=CHECKS, timeout=30)

        answers()
        tried.append(operation.label)
    assert {"POST /run", "GET /status", "GET /ready", "GET /runs/{id}/events"} <= set(tried)
