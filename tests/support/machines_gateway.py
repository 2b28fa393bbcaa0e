"""The gateway over a real Prefect server, with a store and providers that one test has, called over HTTP."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from prefect_aws import MinIOCredentials
from pydantic import SecretStr

import blocks
from api.app import create_app
from api.settings import Settings
from deployments.servers.s3_server import S3Server
from tests.support.ssh_machines import KeyPair

TOKEN = "a-token-of-the-tests-0123456789"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
_numbers = itertools.count()
Call = Callable[[httpx.AsyncClient], Awaitable[None]]


class MachinesGateway:
    """Blocks `<name>-store` (a directory, or a bucket of `s3`) and `<name>-own`, whose key is `keys`.

    `run` gives a test a client of a new gateway. `address` is of a machine that does not exist.
    """

    def __init__(self, folder: Path, keys: KeyPair, pool: str = "gpu", s3: S3Server | None = None) -> None:
        self.renew()
        self.store_name, self.own_name = f"{self.name}-store", f"{self.name}-own"
        self.pool = pool
        store = _bucket(s3, self.name) if s3 is not None else blocks.LocalStore(directory=str(folder / "store"))
        store.save(self.store_name)
        self.store = store.open()
        blocks.OwnMachines(ssh_key=SecretStr(keys.private)).save(self.own_name)

    def renew(self) -> None:
        """Another name and address, for the next test on the same blocks."""
        number = next(_numbers)
        self.name = f"e{number}"
        self.address: dict[str, Any] = {"ssh_host": "192.0.2.7", "ssh_port": 20_000 + number}

    def settings(self, **other: Any) -> Settings:
        given = {"store": self.store_name, "provider": self.own_name, "pool": self.pool, **other}
        return Settings(tokens=(("tests", TOKEN),), **given)

    def run(self, calls: Call, **settings: Any) -> None:
        async def scenario() -> None:
            async with self.client(**settings) as client:
                await calls(client)

        asyncio.run(scenario())

    @asynccontextmanager
    async def client(self, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        """Of a gateway of its own, as another process would be."""
        app = create_app(self.settings(**settings))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://api", headers=AUTHORIZED, timeout=120) as client,
        ):
            yield client


def _bucket(s3: S3Server, prefix: str) -> blocks.S3Store:
    credentials = MinIOCredentials(minio_root_user=s3.access_key, minio_root_password=SecretStr(s3.secret_key))
    return blocks.S3Store(bucket=s3.bucket, prefix=prefix, endpoint=s3.endpoint, credentials=credentials)
