"""An open loop of HTTP requests: each has its time, whatever became of those before, and its latency counts from then.

    python -m bench.gateway.load < plan.json > samples.json

A process of its own, small, without Prefect: it shares the cores with what it measures. HTTP/1.1 over kept connections,
by hand, since a client library costs more than the server it asks.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

CONNECTIONS_MAX = 256
LANES = 16
IDLE_S_MAX = 3.0
"""Shorter than the server keeps a connection that nobody uses: what it has just closed would count as no answer."""
ANSWER_BYTES_MAX = 1 << 20
REQUEST_TIMEOUT_S = 30.0
LEAD_S = 0.2


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, `at_s` after the beginning; None: as soon as one of the lanes is free."""

    at_s: float | None
    method: str
    path: str
    body: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """What became of it: seconds from its planned time, and the status; 0 for no answer."""

    latency_s: float
    status: int


class Connection:
    """One connection, for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.used_s = time.monotonic()

    async def ask(self, request: bytes) -> int:
        """The status, once the whole answer was read."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if length > ANSWER_BYTES_MAX:
            raise ValueError("an answer is too long")
        await self._reader.readexactly(length)
        self.used_s = time.monotonic()
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        self._writer.close()


class Load:
    """The requests of one plan to one server."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._host, self._port, self._token = host, port, token
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)

    async def run(self, asks: list[Ask]) -> list[Sample]:
        """Every sample, in the order of the plan."""
        began_s = time.perf_counter() + LEAD_S
        lanes = asyncio.Semaphore(LANES)
        tasks: list[asyncio.Task[Sample]] = []
        for ask in asks:
            if ask.at_s is None:
                await lanes.acquire()
                task = asyncio.create_task(self._one(ask, time.perf_counter()))
                task.add_done_callback(lambda _: lanes.release())
            else:
                planned_s = began_s + ask.at_s
                await asyncio.sleep(max(0.0, planned_s - time.perf_counter()))
                task = asyncio.create_task(self._one(ask, planned_s))
            tasks.append(task)
        return list(await asyncio.gather(*tasks))

    async def _one(self, ask: Ask, planned_s: float) -> Sample:
        try:
            async with self._slots:
                status = await asyncio.wait_for(self._asked(self._bytes(ask)), REQUEST_TIMEOUT_S)
        except (OSError, asyncio.TimeoutError, EOFError, ValueError):
            status = 0
        return Sample(time.perf_counter() - planned_s, status)

    async def _asked(self, request: bytes) -> int:
        while self._idle and self._idle[0].used_s < time.monotonic() - IDLE_S_MAX:
            self._idle.pop(0).close()
        connection = self._idle.pop() if self._idle else await self._connected()
        try:
            status = await connection.ask(request)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return status

    async def _connected(self) -> Connection:
        return Connection(*await asyncio.open_connection(self._host, self._port))

    def _bytes(self, ask: Ask) -> bytes:
        head = f"{ask.method} {ask.path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {self._token}\r\n"
        if ask.body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(ask.body.encode())}\r\n"
        return f"{head}\r\n{ask.body}".encode()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


def spaced(count: int, rate_per_s: float) -> list[float]:
    """The times of a constant rate."""
    return [number / rate_per_s for number in range(count)]


def main() -> int:
    plan: dict[str, Any] = json.load(sys.stdin)

    async def run() -> list[Sample]:
        load = Load(plan["host"], plan["port"], plan["token"])
        try:
            return await load.run([Ask(**ask) for ask in plan["asks"]])
        finally:
            load.close()

    json.dump([asdict(sample) for sample in asyncio.run(run())], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
