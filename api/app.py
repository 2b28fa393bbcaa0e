"""The application: `uvicorn api.app:app`, or `python -m api`."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from api.gateway import gateway, guard_of
from api.http import problems
from api.http.limits import BodyLimit
from api.http.middleware import REQUEST_ID, Edge
from api.routes import generation, health, instances, metrics, snapshots, streams
from api.settings import Settings

ROUTES = (generation, streams, snapshots, instances, health, metrics)
DESCRIPTION = """Generates videos from images, puts machines to sleep and wakes them.

Every endpoint starts or shows a run of a Prefect flow. Errors are `application/problem+json` (RFC 9457); their `type`
says whether the request, the moment or the service is at fault."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application, with the settings of the environment unless others are given. UsageError for settings that
    are none. It starts whether or not the Prefect server is there."""
    chosen = settings if settings is not None else Settings.read(os.environ)
    guard_of(chosen)  # refused now, rather than when the application has begun

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway(chosen) as opened:
            app.state.gateway = opened
            # What was imported stays; looking through it again would stop every request for a third of a second.
            gc.collect()
            gc.freeze()
            yield

    app = FastAPI(
        title="Poorwill",
        version=metadata.version("poorwill"),
        description=DESCRIPTION,
        lifespan=lifespan,
        swagger_ui_parameters={"persistAuthorization": False},
    )
    problems.install(app)
    app.add_middleware(BodyLimit, bytes_max=chosen.body_bytes_max)
    if chosen.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=chosen.cors_origins,
            allow_methods=["*"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", REQUEST_ID],
            expose_headers=[REQUEST_ID, "Retry-After", "Location"],
        )
    metrics.install(app)
    app.add_middleware(Edge)
    for module in ROUTES:
        app.include_router(module.router)
    return app


def __getattr__(name: str) -> Any:
    """`app`, made when it is first asked for: importing this module must not need settings."""
    if name == "app":
        made = globals()["app"] = create_app()
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
