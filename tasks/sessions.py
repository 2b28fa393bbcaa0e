"""The live side of runs: which engine, store and half-done work belong to a run's id in this process.

Tasks take ids and ask here. What is lost with the process is only this; all that matters lies in the store.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace

from blocks.lookup import machine_block, save_machine, store_block
from blocks.machines import Machine
from poorwill.control.records.pending import Attempt
from poorwill.control.snapshot.presigned_grants import check_reachable
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.errors import EngineLost, NotFound, Refused
from poorwill.providers.base import Endpoint, LocalEndpoint
from poorwill.remote.base import Host
from poorwill.remote.host_key import PinnedKey, fingerprint
from poorwill.remote.local_host import LocalHost
from poorwill.remote.ssh_host import SshHost
from poorwill.snapshot.order import SnapshotOrder
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

    def located(self, order: SnapshotOrder) -> SnapshotOrder:
        """The order with what only the connection knows: the instance, and the workspace as its engine sees it."""
        return replace(order, machine=self.machine, instance=self.instance, workspace=self.workspace)

    def close(self) -> None:
        self.session.close()
        self.store.close()


class Sessions:
    """The live runs of this process, by their ids. Thread-safe."""

    def __init__(self) -> None:
        self._lives: dict[str, Live] = {}
        self._attempts: dict[str, Attempt] = {}
        self._lock = threading.Lock()

    def get(self, run: str) -> Live:
        """The live side of a run. EngineLost if this process has none, or its engine is gone."""
        live = self._peek(run)
        if live is None or not live.session.alive:
            raise EngineLost(f"run {run} has no engine in this process: open the machine again")
        return live

    def snapshot(self, run: str) -> SnapshotRun:
        """What `scan_workspace` began. EngineLost if it did not, on this engine."""
        live = self.get(run)
        if live.snapshot is None:
            raise EngineLost(f"the engine on {live.instance} has no scan of this snapshot: scan again")
        return live.snapshot

    def restore(self, run: str) -> RestoreRun:
        """What `open_restore` began. EngineLost if it did not, on this engine."""
        live = self.get(run)
        if live.restore is None:
            raise EngineLost(f"the engine on {live.instance} has no open restore: open it again")
        return live.restore

    def attempt(self, run: str) -> Attempt:
        """The run's try at its snapshot, with whichever engine; until it is closed."""
        with self._lock:
            return self._attempts.setdefault(run, Attempt())

    def _peek(self, run: str) -> Live | None:
        with self._lock:
            return self._lives.get(run)

    def samples(self, run: str) -> list[Sample]:
        """What was counted of the run so far, for the picture in the report; empty where there is no such run."""
        live = self._peek(run)
        return list(live.samples) if live is not None else []

    def counters(self, run: str) -> dict[str, int]:
        """What the run's engine has counted so far, which is noted among its samples; empty where there is none."""
        live = self._peek(run)
        if live is None:
            return {}
        counted = dict(live.session.counters)
        if len(live.samples) < SAMPLES_MAX:
            live.samples.append((time.monotonic() - live.began_s, counted))
        return counted

    def reach(self, run: str, machine: str, store: str, workspace: str) -> Live:
        """The live side of a run, opened, or opened again if its engine is gone.

        machine, store: names of blocks. workspace: as the machine sees it. NotFound, Refused, EngineLost.
        """
        before = self._peek(run)
        if before is not None and before.session.alive:
            return before
        self._drop(run)
        live = _open(machine, store, workspace)
        if before is not None:
            live.began_s, live.samples = before.began_s, before.samples
        with self._lock:
            self._lives[run] = live
        return live

    def stop(self, run: str) -> None:
        """End a run's engine; who waits for it hears EngineLost. The rest stays, for the report."""
        live = self._peek(run)
        if live is not None:
            live.session.close()

    def close(self, run: str) -> None:
        """Forget a run. Idempotent."""
        self._drop(run)
        with self._lock:
            self._attempts.pop(run, None)

    def _drop(self, run: str) -> None:
        with self._lock:
            live = self._lives.pop(run, None)
        if live is not None:
            live.close()


sessions = Sessions()
"""Those of this process: its flows and their tasks share them."""


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
