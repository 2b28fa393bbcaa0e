"""`/metrics` for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from api.deps import Credentials, SharedGateway
from api.http.problems import documented

router = APIRouter(tags=["operation"])


@router.get("/metrics", response_class=Response, responses={
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."},
    **documented(),
})  # fmt: skip
async def metrics(request: Request, gateway: SharedGateway, credentials: Credentials) -> Response:
    """Runs, queues, stages, snapshots, machines and this process's requests. Needs a token, unless the operator has
    set POORWILL_API_METRICS_OPEN."""
    if not gateway.settings.metrics_open:
        gateway.guard.admit(credentials.credentials if credentials is not None else None)
    await gateway.gauges.refresh()
    gauges = CollectorRegistry()
    gauges.register(gateway.gauges)
    own: CollectorRegistry = request.app.state.requests.registry
    return Response(generate_latest(gauges) + generate_latest(own), media_type=CONTENT_TYPE_LATEST)
