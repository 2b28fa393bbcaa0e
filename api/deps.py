"""The dependencies of the endpoints: the gateway, who calls, and the caller's idempotency key."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Depends, Header
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from api.gateway import Gateway

Credentials = Annotated[
    HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False, description="A token from the operator."))
]


async def gateway_of(connection: HTTPConnection) -> Gateway:
    """What all requests of this process share."""
    gateway: Gateway = connection.app.state.gateway
    return gateway


SharedGateway = Annotated[Gateway, Depends(gateway_of)]


async def caller(connection: HTTPConnection, gateway: SharedGateway, credentials: Credentials) -> str:
    """The dependency of every router but health: who calls. Problem: unauthorized, too-many-requests."""
    name = gateway.guard.admit(credentials.credentials if credentials is not None else None)
    connection.state.caller = name
    return name


async def _idempotency_key(
    name: Annotated[str, Depends(caller)],
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="The same key with the same body is the same run, however often it is sent; "
            "with another body it is refused (409). Each caller has keys of its own.",
        ),
    ] = None,
) -> str | None:
    """The key that was sent, made the caller's own."""
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" if key is not None else None


IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]
"""Of requests that start runs, for `Runs.create`."""
