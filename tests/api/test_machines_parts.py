"""Parts of the gateway without a server: ids, addresses, the cache of gauges, threads."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import ValidationError

from api.gauges.cache import GaugeCache, Sample
from api.gauges.sources import TASK_RUNS, stage_seconds
from api.http.problems import Problem
from api.machines.addresses import MachineAddress, checked_host
from api.machines.blocks import block_name
from api.store.threads import Threads
from poorwill.snapshot.ids import is_machine_name
from tests.support.doubles.clock import SleepingClock
from tests.support.ssh_machines import KeyPair


def test_block_names() -> None:
    """An id that can name a block is its name; any other gets a valid one of its own, however alike they look."""
    assert block_name("trainer-7") == "trainer-7"
    alike = ["a.b", "a_b", "a:b", "A-b", "a-b", "a..b", "a--b", "-a-b", "a.b.", "x" * 128, "x" * 127, "::", "[::1]:22"]
    names = [block_name(each) for each in alike]
    assert len(set(names)) == len(alike)
    assert all(is_machine_name(name) and name == block_name(name) for name in names)


@pytest.mark.parametrize("host", ["gpu.example.com", "192.0.2.7", "::1", "[2001:db8::1]", "a", "ssh_4.vast.ai", "x."])
def test_hosts(host: str) -> None:
    assert checked_host(host) == host.strip("[]")


@pytest.mark.parametrize(
    "asked",
    [
        *({"ssh_host": host} for host in (
            "", "-oProxyCommand=id", "user@host", "host;id", "host name", "host\n", "$(id)", "a..b", "host:22",
            "0x7f.1", "2130706433", "127.1", "1.2.3.4.5", "é.example", "x" * 64,
            ".".join(["xy"] * 90), "[host]", "-", "a.-b",
        )),
        *({"ssh_host": "host", **other} for other in (
            {"ssh_port": 0}, {"ssh_port": 65536}, {"ssh_user": "-l"}, {"ssh_user": "a b"},
            {"host_key": "ssh-ed25519 no"}, {"workspace_path": "workspace"}, {"workspace_path": "/a/../etc"},
            {"workspace_path": "/"}, {"workspace_path": "//"}, {"workspace_path": "/a\nb"}, {"workspace_path": "/a\0b"},
        )),
    ],
)  # fmt: skip
def test_wrong_addresses(asked: dict[str, Any]) -> None:
    """Nothing is accepted that a program could take for an option, a command, or an address that was not checked."""
    with pytest.raises(ValidationError):
        MachineAddress(**asked)


def test_a_given_host_key() -> None:
    """It is kept without its comment."""
    line = KeyPair.generate().public
    assert MachineAddress(ssh_host="host", host_key=f"{line} root@box").host_key == line


def test_stage_seconds() -> None:
    """A stage lasts from its first task's start to its last one's end; a run that may be cut off is not counted."""

    def task(name: str, run: str, start_s: int, end_s: int) -> dict[str, str]:
        at = "2026-01-02T03:04:{:02}+00:00".format
        return {"name": name, "flow_run_id": run, "start_time": at(start_s), "end_time": at(end_s)}

    packs = [task(f"pack_part-{n:03x}", "a", n, n + 3) for n in range(4)]
    other = [task("open_machine-0", "a", 0, 1), task("open_machine-1", "b", 0, 5), task("Named by hand", "b", 0, 9)]
    assert stage_seconds([*packs, *other]) == {"pack_part": [6.0], "open_machine": [1.0, 5.0]}
    full = [*packs, *other, *[task(f"pack_part-{n}", "c", 0, 1) for n in range(TASK_RUNS)]]
    assert stage_seconds(full) == {"pack_part": [6.0], "open_machine": [1.0, 5.0]}


class Counter:
    """Counts how often it was asked, and fails on request."""

    def __init__(self) -> None:
        self.asked, self.fails, self.gate = itertools.count(1), False, asyncio.Event()
        self.gate.set()

    async def read(self) -> Sequence[Sample]:
        await self.gate.wait()
        if self.fails:
            raise OSError("away")
        return [Sample("asked", next(self.asked))]


def shown(gauges: GaugeCache) -> list[str]:
    registry = CollectorRegistry()
    registry.register(gauges)
    return generate_latest(registry).decode().splitlines()


def test_the_cache_of_gauges() -> None:
    """It asks at most every so often, shows the last answer while it asks again, and a source that fails shows that
    instead of what it said before."""

    async def scenario() -> None:
        clock, source = SleepingClock(), Counter()
        gauges = GaugeCache({"counter": source.read}, {"asked": "How often."}, every_s=30, clock=clock.now)
        await asyncio.gather(*(gauges.refresh() for _ in range(5)))
        assert "asked 1.0" in shown(gauges) and 'poorwill_source_up{source="counter"} 1.0' in shown(gauges)
        await gauges.refresh()
        assert "asked 1.0" in shown(gauges)
        clock.sleep(31)
        source.gate.clear()
        await gauges.refresh()  # does not wait
        assert "asked 1.0" in shown(gauges) and "poorwill_metrics_age_seconds 31.0" in shown(gauges)
        source.gate.set()
        await asyncio.wait({gauges._reading})
        assert "asked 2.0" in shown(gauges)
        clock.sleep(31)
        source.fails = True
        await gauges.refresh()
        await asyncio.wait({gauges._reading})
        assert 'poorwill_source_up{source="counter"} 0.0' in shown(gauges)
        assert not any(line.startswith("asked") for line in shown(gauges))
        await gauges.close()

    asyncio.run(scenario())


def test_calls_that_do_not_end() -> None:
    """Callers get an error in time, and the event loop goes on."""
    held = threading.Event()

    async def scenario() -> None:
        threads = Threads(at_once=1, timeout_s=0.05)
        for _ in range(2):
            with pytest.raises(Problem, match="the store does not answer"):
                await threads.run(held.wait, "the store")
        held.set()
        threads.close()

    asyncio.run(scenario())
