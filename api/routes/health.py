"""For load balancers and orchestrators: is the process alive, and can it work?"""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.deps import SharedGateway
from api.http.problems import documented, unavailable
from api.readiness import Ready

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """It answers."""

    status: str = Field(examples=["alive"])


@router.get("/health")
async def health() -> Alive:
    """The process is alive; nothing else is checked. Needs no token."""
    return Alive(status="alive")


@router.get("/ready", responses=documented(503, everywhere=()))
async def ready(gateway: SharedGateway) -> Ready:
    """Prefect's server and database, the snapshots' and the videos' store, and a worker all answer; 503 names what
    does not. Needs no token."""
    found = await gateway.readiness.check()
    missing = [f"{name}: {check.detail}" for name, check in found.checks.items() if not check.ok]
    if missing:
        problem = unavailable("; ".join(missing))
        problem.extra["checks"] = found.model_dump()["checks"]
        raise problem
    return found
