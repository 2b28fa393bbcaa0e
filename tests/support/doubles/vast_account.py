"""An account at the double of vast.ai, and the provider of machines that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from poorwill.providers.vast.provider import VastProvider
from tests.support.doubles.clock import SleepingClock
from tests.support.doubles.vast_server import Fault, VastServer

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIexample poorwill"

# What requests begin with.
SEARCH = "POST /api/v0/bundles/"
CREATE = "PUT /api/v0/asks/"
GET = "GET /api/v0/instances/"
LIST = "GET /api/v1/instances/"
DELETE = "DELETE /api/v0/instances/"
ATTACH = "POST /api/v0/instances/"


@dataclass
class VastAccount:
    """A server, and a provider that waits for it without taking time."""

    server: VastServer
    clock: SleepingClock

    def provider(self, **other: Any) -> VastProvider:
        asked = {"public_keys": [PUBLIC_KEY], "base_url": self.server.url, **other}
        key = asked.pop("api_key", self.server.api_key)
        return VastProvider(key, sleep=self.clock.sleep, clock=self.clock.now, **asked)

    def fail(self, to: str, status: int, body: bytes | str = b"", times: int = 1, **headers: str) -> None:
        sent = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.server.faults.append(Fault(to, status, sent, named, times))
