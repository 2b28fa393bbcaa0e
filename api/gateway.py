"""What all requests of one process share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.estate import Estate
from api.http.auth import Guard, Tokens
from api.http.limits import TokenBuckets
from api.readiness import Readiness
from api.runs.client import Server, open_client
from api.runs.runs import Runs
from api.runs.watching import Watches
from api.settings import Settings


@dataclass(slots=True)
class Gateway:
    """`app.state.gateway` while the application runs."""

    settings: Settings
    guard: Guard
    server: Server
    runs: Runs
    estate: Estate
    watches: Watches
    readiness: Readiness


def guard_of(settings: Settings) -> Guard:
    """UsageError for tokens that cannot be read."""
    tokens = None if settings.open else Tokens(settings.tokens, settings.tokens_file)
    return Guard(tokens, TokenBuckets(settings.rate_per_s, settings.rate_burst))


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """Opened with the application. The Prefect server need not be there yet."""
    guard = guard_of(settings)
    async with open_client(settings.prefect_timeout_s) as client:
        server = Server(client, settings.prefect_timeout_s)
        runs = Runs(server, settings)
        estate = Estate.of(settings, server, runs)
        watches, readiness = Watches(runs, settings.streams_max), Readiness(settings, server)
        try:
            yield Gateway(settings, guard, server, runs, estate, watches, readiness)
        finally:
            await watches.close()
            readiness.close()
            await estate.close()
            await runs.close()
