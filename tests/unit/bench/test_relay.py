"""The relay that tests and benchmarks put between two programs: exact, of a set speed, and misbehaving on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.network.relay import Relay
from bench.network.token_bucket import LATE_S_MAX, TokenBucket

TIMEOUT_S = 20.0
MIB = 1 << 20


class Target:
    """A server that hands out the connections it accepts, and a client of relays. It closes all of them in the end."""

    def __init__(self) -> None:
        self._opened = contextlib.ExitStack()
        self._listener = self._opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.settimeout(TIMEOUT_S)
        self.address: tuple[str, int] = self._listener.getsockname()

    def accept(self) -> socket.socket:
        found, _ = self._listener.accept()
        found.settimeout(TIMEOUT_S)
        return self._opened.enter_context(found)

    def dial(self, relay: Relay) -> socket.socket:
        return self._opened.enter_context(socket.create_connection(relay.address, TIMEOUT_S))

    def close(self) -> None:
        self._opened.close()


@pytest.fixture
def target() -> Iterator[Target]:
    found = Target()
    yield found
    found.close()


def received(end: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (more := end.recv(size - len(data))):
        data += more
    return bytes(data)


def told(end: socket.socket, what: bytes) -> bool:
    try:
        return received(end, len(what)) == what
    except ConnectionResetError:
        return False


def on_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def noise(size: int) -> bytes:
    return bytes(range(251)) * (size // 251 + 1)


def test_forwards_both_ways_to_the_end(target: Target) -> None:
    """Every byte in order, an end of one direction alone, counts of both; then nothing is open."""
    up, down = noise(3 * MIB), noise(2 * MIB)[::-1]
    with Relay(target.address) as relay:
        client, server = target.dial(relay), target.accept()
        sender = on_thread(lambda: (client.sendall(up), client.shutdown(socket.SHUT_WR)))
        assert received(server, len(up) + 1) == up
        sender = on_thread(lambda: (server.sendall(down), server.close()))
        assert received(client, len(down) + 1) == down
        sender.join(TIMEOUT_S)
        assert (relay.bytes_up, relay.bytes_down, relay.connections_total) == (len(up), len(down), 1)
        while relay.connections:
            time.sleep(0.001)


def test_frozen_it_is_silent_and_open(target: Target) -> None:
    """Nothing passes either way, not even an end or a new connection's bytes; thawed, everything arrives."""
    with Relay(target.address) as relay:
        client, server = target.dial(relay), target.accept()
        client.sendall(b"before")
        assert received(server, 6) == b"before"
        relay.freeze()
        client.sendall(b"up")
        server.sendall(b"down")
        server.shutdown(socket.SHUT_WR)
        late = target.dial(relay)
        late.sendall(b"late")
        for end in (client, server):
            end.settimeout(0.05)
            with pytest.raises(TimeoutError):
                end.recv(1)
            end.settimeout(TIMEOUT_S)
        assert (relay.bytes_up, relay.bytes_down) == (6, 0)
        relay.thaw()
        assert received(server, 2) == b"up" and received(client, 9) == b"down"
        assert received(target.accept(), 4) == b"late"


def test_a_cut_resets_both_ends(target: Target) -> None:
    """Neither end sees an orderly close, and whoever connects next is served; also of a relay that is frozen."""
    with Relay(target.address) as relay:
        for freeze in (False, True):
            client = target.dial(relay)
            client.sendall(b"x")
            server = target.accept()
            assert received(server, 1) == b"x"
            ends = [client, server]
            if freeze:
                relay.freeze()
                ends.append(target.dial(relay))  # this one it has not accepted yet
            relay.cut()
            assert relay.connections == 0
            for end in ends:
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
                end.close()
            relay.thaw()


def test_refusing_and_accepting_again(target: Target) -> None:
    """While it refuses, connecting fails at once and what is open goes on; then the same port serves again."""
    with Relay(target.address) as relay:
        client, server = target.dial(relay), target.accept()
        relay.refuse()
        with pytest.raises(ConnectionRefusedError):
            target.dial(relay)
        client.sendall(b"on")
        assert received(server, 2) == b"on"
        relay.accept()
        target.dial(relay).sendall(b"again")
        assert received(target.accept(), 5) == b"again"


def test_nobody_at_the_target() -> None:
    """The client is reset, and the relay goes on."""
    nobody = Target()
    nobody.close()
    with Relay(nobody.address) as relay:
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                nobody.dial(relay).recv(1)
    nobody.close()


def test_cut_after_exactly_so_many_bytes(target: Target) -> None:
    """No byte more than allowed gets through, what was on its way is lost with the cut, and the cut happens once."""
    size = 700_001
    with Relay(target.address, cut_after_bytes=size) as relay:
        client, server = target.dial(relay), target.accept()

        def send() -> None:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                client.sendall(bytes(8 * MIB))

        sender, got = on_thread(send), 0
        with pytest.raises(ConnectionResetError):
            while more := server.recv(MIB):
                got += len(more)
        sender.join(TIMEOUT_S)
        assert 0 < got <= relay.bytes_up == size
        again = target.dial(relay)
        on_thread(lambda: again.sendall(bytes(MIB)))
        assert len(received(target.accept(), MIB)) == MIB


def test_all_connections_share_the_speed(target: Target) -> None:
    """Four at once pass no faster than one may, in turn, and the other direction is free meanwhile."""
    size, speed = 40_000, 1_000_000.0
    with Relay(target.address, bytes_per_second=speed) as relay:
        pairs = [(target.dial(relay), target.accept()) for _ in range(4)]
        relay.freeze()
        for client, _ in pairs:
            client.sendall(bytes(size))
        pairs[0][1].sendall(b"down")
        began = time.monotonic()
        relay.thaw()
        assert received(pairs[0][0], 4) == b"down"
        assert len(received(pairs[0][1], size)) == size
        assert relay.bytes_up >= 2 * size
        for _, server in pairs[1:]:
            assert len(received(server, size)) == size
        assert time.monotonic() - began > (4 * size - 20_000) / speed


def test_many_threads_may_interfere(target: Target) -> None:
    """Freezing, cutting and refusing from several threads while others connect: no deadlock, and it still serves."""
    with Relay(target.address) as relay:

        def interfere(*actions: Callable[[], None]) -> None:
            for _ in range(100):
                for action in actions:
                    action()

        def connect() -> None:
            for _ in range(100):
                try:
                    with target.dial(relay) as client:
                        client.sendall(b"x")
                except OSError:
                    pass  # refused or cut

        work = [
            on_thread(lambda: interfere(relay.freeze, relay.thaw)),
            on_thread(lambda: interfere(relay.refuse, relay.accept)),
            on_thread(lambda: interfere(relay.cut)),
            on_thread(connect),
        ]
        for thread in work:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
        target.dial(relay).sendall(b"served")
        while not told(target.accept(), b"served"):
            pass  # one of those from before


@given(
    st.floats(1e3, 1e9),
    st.lists(st.tuples(st.floats(0, 0.02), st.booleans()), min_size=1, max_size=200),
)
def test_a_bucket_keeps_its_speed(speed: float, steps: list[tuple[float, bool]]) -> None:
    """Never more than speed, a burst and a chunk allow; and no less where somebody waits, however late it is asked."""
    now = [0.0]
    bucket = TokenBucket(speed, clock=lambda: now[0])
    passed, waited_only = 0, all(waits for _, waits in steps)
    for late_s, waits in steps:
        pause_s = bucket.wait_s(owed=waits)
        assert pause_s <= LATE_S_MAX or speed < 1e6
        now[0] += pause_s + late_s
        while bucket.wait_s(owed=waits) == 0:
            bucket.spend(bucket.chunk_bytes)
            passed += bucket.chunk_bytes
    slack = bucket.burst_bytes + bucket.chunk_bytes
    assert passed <= speed * now[0] + slack
    if waited_only:
        assert passed >= speed * now[0] * (1 - 1e-9) - 1
