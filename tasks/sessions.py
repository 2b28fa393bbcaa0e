"""The live side of runs: which engine, store and half-done work belong to a run's id in this process.

Tasks take ids and ask here. What is lost with the process is only this; all that matters lies in the store.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from blocks.lookup import machine_block, save_machine, store_block
from blocks.machines import Machine
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.control.snapshot.store_reach import check_reachable
from poorwill.errors import EngineLost, NotFound, Refused
from poorwill.providers.base import Endpoint, LocalEndpoint
from poorwill.remote.base import Host
from poorwill.remote.host_key import PinnedKey, fingerprint
from poorwill.remote.local import LocalHost
from poorwill.remote.ssh import SshHost
from poorwill.store.base import Store

SAMPLES_MAX = 20_000
BOOT_PATIENCE_S = 300.0
"""How long a machine that was just created may take to let us in."""
log = logging.getLogger(__name__)
Sample = tuple[float, dict[str, int]]


@dataclass(slots=True)
class Live:
    """One run's connections. `samples` are (seconds since `began_s`, the engine's counters), oldest first."""

    machine: str
    instance: str
    workspace: str  # as the engine sees it
    store: Store
    session: EngineSession
    snapshot: SnapshotRun | None = None
    restore: RestoreRun | None = None
    began_s: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)

    def taking(self) -> SnapshotRun:
        """What `scan_workspace` began. EngineLost if it did not, on this engine."""
        if self.snapshot is None:
            raise EngineLost(f"the engine on {self.instance} has no scan of this snapshot: scan again")
        return self.snapshot

    def restoring(self) -> RestoreRun:
        """What `open_restore` began. EngineLost if it did not, on this engine."""
        if self.restore is None:
            raise EngineLost(f"the engine on {self.instance} has no open restore: open it again")
        return self.restore

    def note(self, counters: dict[str, int]) -> None:
        """Remember the engine's counters of now, for the picture in the report."""
        if len(self.samples) < SAMPLES_MAX:
            self.samples.append((time.monotonic() - self.began_s, dict(counters)))

    def close(self) -> None:
        self.session.close()
        self.store.close()


_lives: dict[str, Live] = {}
_lock = threading.Lock()


def get(run: str) -> Live:
    """The live side of a run. EngineLost if this process has none, or its engine is gone."""
    with _lock:
        live = _lives.get(run)
    if live is None or not live.session.alive:
        raise EngineLost(f"run {run} has no engine in this process: open the machine again")
    return live


def peek(run: str) -> Live | None:
    """The same, whatever its state; None where this process has none."""
    with _lock:
        return _lives.get(run)


def counters(run: str) -> dict[str, int]:
    """What the run's engine has counted so far, which is noted among its samples; empty where there is none."""
    live = peek(run)
    if live is None:
        return {}
    counted = dict(live.session.counters)
    live.note(counted)
    return counted


def reach(run: str, machine: str, store: str, workspace: str) -> Live:
    """The live side of a run, opened, or opened again if its engine is gone.

    machine, store: names of blocks. workspace: as the machine sees it. NotFound, Refused, EngineLost.
    """
    try:
        return get(run)
    except EngineLost:
        before = peek(run)
    close(run)
    live = _open(machine, store, workspace)
    if before is not None:
        live.began_s, live.samples = before.began_s, before.samples
    with _lock:
        _lives[run] = live
    return live


def _open(machine: str, store: str, workspace: str) -> Live:
    block = machine_block(machine)
    if not block.instance:
        raise Refused(f"machine {machine} is asleep in snapshot {block.snapshot or '(none)'}: wake it first")
    provider = block.provider.open()
    try:
        endpoint = block.endpoint(provider)
    except NotFound as error:
        raise NotFound(f"machine {machine}: {error.message}: correct its block, or wake it again") from None
    path = endpoint.path(workspace)
    opened_store = store_block(store).open()
    host = _host(machine, block, endpoint)
    check_reachable(opened_store, host)
    session = EngineSession(host)
    try:
        session.hello(path)
    except BaseException:
        session.close()
        raise
    return Live(block.name, block.instance, path, opened_store, session)


def _host(machine: str, block: Machine, endpoint: Endpoint) -> Host:
    if isinstance(endpoint, LocalEndpoint):
        return LocalHost(endpoint.environment)

    def record(line: str) -> None:
        log.warning("first contact with %s: its host key is %s", endpoint.host, fingerprint(line))
        block.host_key = line
        save_machine(machine, block)

    patience_s = BOOT_PATIENCE_S if block.status == "waking" else 0.0
    return SshHost(endpoint, block.identity(), PinnedKey(block.host_key, record), boot_patience_s=patience_s)


def stop(run: str) -> None:
    """End a run's engine; who waits for it hears EngineLost. The rest stays, for the report."""
    live = peek(run)
    if live is not None:
        live.session.close()


def close(run: str) -> None:
    """Forget a run. Idempotent."""
    with _lock:
        live = _lives.pop(run, None)
    if live is not None:
        live.close()


def facts(run: str) -> dict[str, Any]:
    """What the engine told of its machine."""
    return dict(get(run).session.facts)
