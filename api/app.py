"""The application: `uvicorn api.app:app`, or `python -m api`."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from api.gateway import open_gateway
from api.gauges.requests import RequestCounts
from api.http import problems
from api.http.auth import Guard
from api.http.limits import BodyLimit
from api.http.middleware import REQUEST_ID, RequestMiddleware
from api.routes import generation, health, instances, metrics, snapshots, streams
from api.settings import Settings

DESCRIPTION = """Generates videos from images, puts machines to sleep and wakes them.

Every endpoint starts or shows a run of a Prefect flow. Errors are `application/problem+json` (RFC 9457); their `type`
says whether the request is wrong, may be sent again later, or the service failed."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application, with the settings of the environment unless others are given. UsageError for settings that
    are wrong. It starts whether or not the Prefect server is there."""
    chosen = settings if settings is not None else Settings.read()
    Guard(chosen)  # refused now, rather than when the application starts

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_gateway(chosen) as gateway:
            app.state.gateway = gateway
            # Imported modules stay; a collection that looked through them would stop every request for 0.3 s.
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
    app.state.requests = RequestCounts()
    app.add_middleware(RequestMiddleware, ended=app.state.requests.count)
    for module in (generation, streams, snapshots, instances, health, metrics):
        app.include_router(module.router)
    return app


def __getattr__(name: str) -> Any:
    """`app`, made when it is first asked for: importing this module needs no settings."""
    if name == "app":
        return globals().setdefault("app", create_app())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
