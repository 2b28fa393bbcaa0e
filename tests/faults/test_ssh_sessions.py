"""A session with an engine over SSH goes on when its connection is cut, and only with the pinned machine."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.network.relay import Relay
from deployments.demo.tree_listing import differences, list_tree
from poorwill.control.snapshot.session import EngineSession
from poorwill.errors import EngineLost, HostRefused
from poorwill.remote.host_key import PinnedKey
from poorwill.remote.identity import Identity
from poorwill.remote.link.link import Link
from poorwill.remote.ssh_connection import SshConnection
from poorwill.remote.ssh_host import SshHost
from poorwill.store.s3.store import S3Store
from tests.support.engine_homes import EngineHome, endpoint, ssh_host
from tests.support.hooked_store import hooked
from tests.support.runs import Taken, restore, take
from tests.support.ssh_machines import KeyPair, SshMachine
from tests.support.workspaces import make_large

DEAD_AFTER_S = 1.0
WAIT_S = 30.0


@pytest.fixture
def machine(rent: Callable[..., SshMachine], engine_home: EngineHome, tmp_path: Path) -> SshMachine:
    """A machine that has the engine, and lets in one session for each connection."""
    return rent(home=engine_home.copy_to(tmp_path / "home"), sessions_max=1)


@pytest.fixture
def relay(machine: SshMachine) -> Iterator[Relay]:
    with Relay((machine.host, machine.port)) as between:
        yield between


class WatchedHost(SshHost):
    """The machine, with its link at hand, and a count of the times it was dialed."""

    link: Link
    dials = 0

    def start(self) -> Link:
        self.link = super().start()
        return self.link

    def _connect(self) -> SshConnection:
        self.dials += 1
        return super()._connect()


@pytest.fixture
def host(machine: SshMachine, relay: Relay, ssh_keys: KeyPair) -> WatchedHost:
    """The machine behind the relay."""
    pin = PinnedKey(machine.host_key)
    return WatchedHost(endpoint(machine, relay), Identity(ssh_keys.private), pin, dead_after_s=DEAD_AFTER_S)


def await_true(true: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < ends, f"waited for {what} in vain"
        time.sleep(0.005)


def kill_server(machine: SshMachine, relay: Relay, host: WatchedHost) -> None:
    machine.cut()


def reset(machine: SshMachine, relay: Relay, host: WatchedHost) -> None:
    relay.cut()


def hang(machine: SshMachine, relay: Relay, host: WatchedHost) -> None:
    """Forward nothing more, without closing, until the other side has given up on that and dials again."""
    before = host.dials
    relay.freeze()

    def mend() -> None:
        await_true(lambda: host.dials > before, "another connection")
        relay.thaw()

    threading.Thread(target=mend, daemon=True).start()


MOMENTS = {
    "at the scan": ("before", "list", 1),
    "in the middle of a part": ("after", "grant_piece", 3),
    "at the end": ("before", "put", 2),
}
CASES = [*itertools.product([kill_server, hang], MOMENTS), (reset, "in the middle of a part")]


@pytest.mark.parametrize(("cut", "moment"), CASES)
def test_a_snapshot_goes_on_over_a_cut_connection(
    cut: Callable[[SshMachine, Relay, WatchedHost], None],
    moment: str,
    machine: SshMachine,
    relay: Relay,
    host: WatchedHost,
    s3_store: S3Store,
    tmp_path: Path,
) -> None:
    """Whatever breaks, whenever: the same engine goes on, no byte is sent twice, and what was kept is whole."""
    workspace = make_large(machine.home / "workspace")
    side, operation, number = MOMENTS[moment]

    def act(key: str, call: int) -> None:
        if call == number:
            cut(machine, relay, host)

    store = hooked(s3_store, **{side: {operation: act}})
    taken = take(store, workspace, host=host)
    assert host.link.reconnects == 1
    assert taken.counters["sent_bytes"] == stored_bytes(taken, s3_store)
    restore(s3_store, taken.id, tmp_path / "restored")
    assert differences(list_tree(workspace), list_tree(tmp_path / "restored")) == []


def stored_bytes(taken: Taken, store: S3Store) -> int:
    return sum(found.size for found in store.list("parts/") if taken.id in found.key)


def test_a_restore_goes_on_over_a_cut_connection(
    machine: SshMachine, host: WatchedHost, s3_store: S3Store, tmp_path: Path
) -> None:
    """Nothing is fetched twice by a restore whose connection was cut while it read parts."""
    workspace = make_large(tmp_path / "workspace")
    taken = take(s3_store, workspace)

    def act(key: str, call: int) -> None:
        if call == 3:
            machine.cut()

    store = hooked(s3_store, before={"grant_read": act})
    quiet = restore(s3_store, taken.id, tmp_path / "quiet")
    restored = restore(store, taken.id, machine.home / "workspace", host=host)
    assert host.link.reconnects == 1
    assert restored.counters["fetched_bytes"] == quiet.counters["fetched_bytes"]
    assert differences(list_tree(workspace), list_tree(machine.home / "workspace")) == []


def test_one_channel_serves_a_whole_session(
    machine: SshMachine, ssh_keys: KeyPair, s3_store: S3Store, tmp_path: Path
) -> None:
    """One to look for the engine, and one for everything else; never two at a time, which this server refuses."""
    take(s3_store, make_large(machine.home / "workspace"), host=ssh_host(machine, ssh_keys))
    assert machine.sessions_opened() == 2


def test_another_host_key_is_refused(machine: SshMachine, ssh_keys: KeyPair) -> None:
    """At the first contact it is recorded; another one ends a running session and refuses a new one."""
    seen: list[str] = []
    pin = PinnedKey(record=seen.append)
    session = EngineSession(ssh_host(machine, ssh_keys, pin=pin))
    try:
        session.hello("/")
        assert seen == [machine.host_key]
        machine.rekey()
        machine.cut()
        with pytest.raises(HostRefused, match="is not the machine it was"):
            session.command("true", "/", WAIT_S)
    finally:
        session.close()
    with pytest.raises(HostRefused, match="is not the machine it was"):
        ssh_host(machine, ssh_keys, pin=pin).start()
    assert seen == [pin.known]


def test_a_key_that_is_not_let_in(machine: SshMachine) -> None:
    """It is refused at once on a machine that is known to run, and tried for a while on one that was just created."""
    stranger = KeyPair.generate()
    with pytest.raises(HostRefused, match=r"does not let us in with SHA256:.*authorized_keys"):
        ssh_host(machine, stranger).start()
    steps: list[str] = []

    def attach(step: str) -> None:
        steps.append(step)
        machine.authorize(stranger.public)

    new = ssh_host(machine, stranger, pin=PinnedKey(), boot_patience_s=WAIT_S, on_step=attach)
    new.start().close()
    assert steps[0].startswith("waiting for ")


def test_a_machine_that_is_not_there(machine: SshMachine, ssh_keys: KeyPair) -> None:
    """EngineLost, which is transient, says where nobody answered."""
    machine.stop()
    with pytest.raises(EngineLost, match=rf":{machine.port} cannot be reached"):
        ssh_host(machine, ssh_keys).start()


def test_second_contact_is_short(machine: SshMachine, ssh_keys: KeyPair, engine_home: EngineHome) -> None:
    """The first contact installed the engine; the second one sends nothing and installs nothing."""
    assert any("installing" in step for step in engine_home.steps)
    steps: list[str] = []
    ssh_host(machine, ssh_keys, on_step=steps.append).start().close()
    assert len(steps) == 1 and steps[0].startswith("looking for the engine")
