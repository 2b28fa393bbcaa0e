"""The dependencies of the endpoints: the gateway, who calls, and the caller's idempotency key."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Depends, Header
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from api.gateway import Gateway
from api.http.auth import Caller

IDEMPOTENCY_KEY_CHARACTERS_MAX = 255
bearer = HTTPBearer(auto_error=False, description="A token from the operator.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


async def gateway_of(connection: HTTPConnection) -> Gateway:
    """What all requests of this process share."""
    gateway: Gateway = connection.app.state.gateway
    return gateway


SharedGateway = Annotated[Gateway, Depends(gateway_of)]


async def caller(connection: HTTPConnection, gateway: SharedGateway, credentials: Credentials) -> Caller:
    """The dependency of every router but health: who calls. Problem: unauthorized, too-many-requests."""
    admitted = gateway.guard.admit(credentials.credentials if credentials is not None else None)
    connection.state.caller = admitted.name
    return admitted


async def _idempotency_key(
    admitted: Annotated[Caller, Depends(caller)],
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=IDEMPOTENCY_KEY_CHARACTERS_MAX,
            description="The same key with the same body is the same run, however often it is sent; "
            "with another body it is refused (409). Each caller has keys of its own.",
        ),
    ] = None,
) -> str | None:
    """The key that was sent, made the caller's own."""
    return f"{admitted.name}:{hashlib.sha256(key.encode()).hexdigest()}" if key is not None else None


IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]
"""Of requests that start runs, for `Runs.create`."""
