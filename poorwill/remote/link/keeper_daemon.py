"""The daemon of a keeper: holds the engine's pipes while its client's connections come and go.

One thread and one poll loop, in which nothing blocks. The client is the last one that said HELLO.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from functools import partial

from poorwill.errors import Corrupt
from poorwill.remote.link import frames
from poorwill.remote.link.frames import Frame, Hello, Kind, No
from poorwill.remote.link.keeper_peer import QUIET_S, KeeperPeer
from poorwill.remote.link.kept_engine import KeptEngine
from poorwill.remote.link.replay import Conversation
from poorwill.remote.link.run_directory import Claim

PATIENCE_S = 180.0
"""How long the engine is kept without a client: longer than a Link tries to come back."""
GRACE_S = 5.0
"""How long an engine may take to end by itself when its input has ended."""
FAREWELL_S = 2.0
GUESTS_MAX = 8

Interest = tuple[int, int, Callable[[int], None]]


class KeeperDaemon:
    """Keeps `engine` until a client ends it, or no client was heard for `patience_s`; then removes its `claim`.

    `first` is the connection of the keeper that started it. After the engine has ended by itself the daemon waits as
    long for a client to report that to.
    """

    def __init__(
        self,
        engine: KeptEngine,
        claim: Claim,
        listener: socket.socket,
        first: socket.socket,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._claim, self._listener = engine, claim, listener
        self._patience_s, self._clock = patience_s, clock
        self._conversation = Conversation()
        self._heard_s = clock()
        self._client: KeeperPeer | None = None
        self._epoch = -1
        self._guests = [KeeperPeer(first, self._heard_s)]
        self._leaving = False
        self._kill_s = self._farewell_s = math.inf
        # Again, after the fork: by SO_PEERCRED a sweeper finds out which process listens.
        listener.listen(GUESTS_MAX)
        listener.setblocking(False)
        self._signals = _signals()

    def run(self) -> None:
        try:
            while True:
                self._advance()
                told = self._client is None or self._client.gone or self._clock() >= self._farewell_s
                if told and self._farewell_s < math.inf:
                    return
                self._wait()
        finally:
            self._engine.kill()
            self._claim.release()

    def _advance(self) -> None:
        """Do what is due by the time and the state of the engine."""
        now_s, engine, inbox = self._clock(), self._engine, self._conversation.inbox
        engine.reap()
        if self._is_draining() and now_s >= engine.drained_s():
            self._read_engine()
        if not self._leaving and now_s >= self._heard_s + self._patience_s:
            self._leave(GRACE_S)
        if now_s >= self._kill_s:
            engine.kill()
            self._kill_s = math.inf
        if engine.stdin < 0:
            inbox.skip(len(inbox), now_s)
        elif inbox.finished and not inbox:
            engine.end_input()
        self._guests = [g for g in self._guests if not g.closed and (g.sweeper or now_s < g.until_s)]
        if self._leaving and engine.status is not None and self._farewell_s == math.inf:
            # Before the client is told: whoever hears that the engine has ended finds nothing left of it.
            self._claim.release()
            self._farewell_s = now_s + FAREWELL_S

    def _leave(self, grace_s: float) -> None:
        self._leaving = True
        self._engine.end_input()
        self._kill_s = min(self._clock() + grace_s, self._kill_s)

    def _is_draining(self) -> bool:
        engine = self._engine
        return engine.status is not None and engine.stdout >= 0 and self._conversation.outbox.room > 0

    def _wait(self) -> None:
        poll, react = select.poll(), {}
        for fd, mask, reaction in self._interests():
            poll.register(fd, mask)
            react[fd] = reaction
        timeout_s = min(self._times_s()) - self._clock()
        for fd, mask in poll.poll(math.ceil(max(0.0, timeout_s) * 1000)):
            react[fd](mask)

    def _times_s(self) -> list[float]:
        """When something is due even if nothing arrives. Each is dealt with, so none stays in the past."""
        times_s = [self._clock() + 60.0, self._kill_s, self._farewell_s]
        if not self._leaving:
            times_s.append(self._heard_s + self._patience_s)
        if self._is_draining():
            times_s.append(self._engine.drained_s())
        ack_s = self._conversation.inbox.ack_due_s()
        if ack_s is not None and self._client is not None and not self._has_piece(self._client):
            times_s.append(ack_s)
        times_s += [guest.until_s for guest in self._guests if not guest.sweeper]
        return times_s

    def _interests(self) -> list[Interest]:
        engine, conversation, client = self._engine, self._conversation, self._client
        wanted: list[Interest] = [
            (self._signals, select.POLLIN, self._signalled),
            (self._listener.fileno(), select.POLLIN, self._accept),
        ]
        if engine.stdout >= 0 and conversation.outbox.room > 0:
            wanted.append((engine.stdout, select.POLLIN, lambda mask: self._read_engine()))
        if engine.stderr >= 0:
            wanted.append((engine.stderr, select.POLLIN, lambda mask: engine.listen()))
        if engine.stdin >= 0 and conversation.inbox:
            wanted.append((engine.stdin, select.POLLOUT, lambda mask: self._write_engine()))
        wanted += [(guest.fileno, select.POLLIN, partial(self._serve, guest)) for guest in self._guests]
        if client is not None:
            mask = select.POLLIN | (select.POLLOUT if self._has_piece(client) else 0)
            wanted.append((client.fileno, mask, partial(self._serve, client)))
        return wanted

    def _signalled(self, mask: int) -> None:
        if signal.SIGTERM in os.read(self._signals, 4096):
            self._leave(GRACE_S)

    def _accept(self, mask: int) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        if len(self._guests) >= GUESTS_MAX:
            self._guests.pop(0).close()
        self._guests.append(KeeperPeer(peer, self._clock()))

    def _read_engine(self) -> None:
        outbox = self._conversation.outbox
        outbox.append(self._engine.read(outbox.room))

    def _write_engine(self) -> None:
        inbox = self._conversation.inbox
        inbox.skip(self._engine.write(inbox.peek(64 << 10)), self._clock())

    def _serve(self, peer: KeeperPeer, mask: int) -> None:
        if mask & select.POLLOUT and not peer.closed:
            peer.send(b"" if peer.unsent else self._piece(peer))
        if mask & ~select.POLLOUT or peer.closed:
            self._hear(peer)

    def _has_piece(self, client: KeeperPeer) -> bool:
        due_s = self._conversation.due_s()
        return bool(client.unsent) or (due_s is not None and due_s <= self._clock()) or self._farewell_is_due(client)

    def _piece(self, client: KeeperPeer) -> bytes:
        piece = self._conversation.piece(self._clock())
        if not piece and self._farewell_is_due(client):
            client.farewell_sent = True
            return frames.ended(self._engine.status or 0, self._engine.last_words())
        return piece

    def _farewell_is_due(self, client: KeeperPeer) -> bool:
        return self._engine.over and self._conversation.settled and not client.farewell_sent

    def _hear(self, peer: KeeperPeer) -> None:
        """Read from a client or a guest. A breach of the protocol ends its connection."""
        try:
            for frame in [] if peer.closed else peer.receive():
                if peer is self._client:
                    self._take(frame)
                else:
                    self._welcome(peer, frame)
        except Corrupt:
            peer.close()
        if peer is self._client and peer.closed:
            self._client = None

    def _take(self, frame: Frame) -> None:
        self._heard_s = self._clock()
        if frame.kind is Kind.CLOSE:
            self._leave(frame.grace_s())
        elif not self._conversation.take(frame):
            raise Corrupt(f"keeper protocol: a frame {frame.kind.name} from a client")

    def _welcome(self, guest: KeeperPeer, frame: Frame) -> None:
        if frame.kind is Kind.HELLO:
            self._begin(guest, frame.hello())
        elif frame.kind is not Kind.SWEEP:
            raise Corrupt(f"keeper protocol: a frame {frame.kind.name} instead of HELLO")
        elif self._is_attached(guest):
            guest.send(frames.encode(Kind.BUSY))
            guest.close()
        else:
            guest.sweeper = True
            guest.send(frames.encode(Kind.SWEEP))
            self._leave(GRACE_S)

    def _begin(self, guest: KeeperPeer, hello: Hello) -> None:
        """Make a guest the client, in place of the one before, which may be half-open."""
        if hello.version != frames.VERSION:
            guest.send(frames.no(No.UNFIT, f"this keeper speaks version {frames.VERSION}, not {hello.version}"))
            raise Corrupt("keeper protocol: another version")
        if hello.epoch <= self._epoch:
            raise Corrupt("keeper protocol: an older connection that arrived late")
        self._conversation.resume(hello.received)
        self._guests.remove(guest)
        if self._client is not None:
            self._client.close()
        self._client, self._epoch, self._heard_s = guest, hello.epoch, self._clock()
        guest.send(Hello(frames.VERSION, hello.epoch, self._conversation.inbox.received).encode())

    def _is_attached(self, sweeper: KeeperPeer) -> bool:
        """Whether there is a client that was heard lately, or a guest that may be about to become one."""
        coming = any(not guest.sweeper and not guest.closed for guest in self._guests if guest is not sweeper)
        return coming or (self._client is not None and self._clock() < self._heard_s + QUIET_S)


def _signals() -> int:
    """A descriptor that becomes readable when the engine ends, or when this process is asked to."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.set_wakeup_fd(writing)
    return reading
