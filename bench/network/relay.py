"""A TCP relay on loopback that stands for the network between two programs: of a set speed, and able to misbehave."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from types import TracebackType

from bench.network.relay_pipe import CHUNK_BYTES_MAX, Connection, Lane, Pipe

# A link holds little: with the kernel's usual megabytes per connection, seconds of data would lie inside it.
SOCKET_BYTES_THROTTLED = 512 << 10
BACKLOG = 128
CLOSE_TIMEOUT_S = 5.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Relay:
    """Listens on a free port of 127.0.0.1 and forwards every connection to `target`, a (host, port).

    bytes_per_second: each way, shared by all connections in turn, within a `TokenBucket`'s bounds.
    cut_after_bytes: all connections are cut, once, when that many bytes have passed, both ways together, though
    the last of them may be lost on their way; connections that come later pass. Methods may be called from any
    thread, and what they say has happened when they return. One thread does the work; `close()` ends it.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        target: tuple[str, int],
        *,
        bytes_per_second: float | None = None,
        cut_after_bytes: int | None = None,
    ) -> None:
        self.target = target
        self.connections_total = 0
        self._throttled = bytes_per_second is not None
        self._up, self._down = Lane(bytes_per_second), Lane(bytes_per_second)
        self._left = cut_after_bytes
        self._connections: set[Connection] = set()
        self._frozen = self._closing = False
        self._lock = threading.Lock()
        self._scratch = memoryview(bytearray(CHUNK_BYTES_MAX))
        self._selector = selectors.DefaultSelector()
        self._bell, self._bell_rope = socket.socketpair()
        for end in (self._bell, self._bell_rope):
            end.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        # Bound as long as the relay lives, and never listening: nobody else gets the port during `refuse()`.
        self._port_holder = _bound(0)
        self.port = int(self._port_holder.getsockname()[1])
        self._listener: socket.socket | None = None
        self.accept()
        self._thread = threading.Thread(target=self._run, name=f"relay-{self.port}", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Where to connect instead of `target`."""
        return self.host, self.port

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._connections)

    @property
    def bytes_up(self) -> int:
        """How many have passed from clients to the target."""
        return self._up.bytes_passed

    @property
    def bytes_down(self) -> int:
        """How many have passed from the target to clients."""
        return self._down.bytes_passed

    def freeze(self) -> None:
        """Forward nothing from now on, no byte and no end, and close nothing: to both sides the other fell silent.

        Connecting still succeeds, and nothing follows. Idempotent.
        """
        with self._lock:
            self._frozen = True

    def thaw(self) -> None:
        """Forward again, beginning with what waits. Idempotent."""
        with self._lock:
            self._frozen = False
        self._ring()

    def cut(self) -> None:
        """Reset all connections, both ends of them. What the relay still held is lost."""
        with self._lock:
            self._cut()

    def refuse(self) -> None:
        """Connecting is refused from now on, as where nobody listens; open connections go on. Idempotent."""
        with self._lock:
            listener, self._listener = self._listener, None
            if listener is not None:
                self._selector.unregister(listener)
                listener.close()

    def accept(self) -> None:
        """Undo `refuse()`, on the same port. Idempotent."""
        with self._lock:
            if self._listener is None and not self._closing:
                self._listener = self._tuned(_bound(self.port))
                self._listener.listen(BACKLOG)
                self._selector.register(self._listener, selectors.EVENT_READ)
        self._ring()

    def close(self) -> None:
        """Cut everything and free the port. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._cut()
            self._closing = True
        self.refuse()
        self._ring()
        self._thread.join(CLOSE_TIMEOUT_S)
        for end in (self._port_holder, self._bell, self._bell_rope):
            end.close()
        self._selector.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings already
            self._bell_rope.send(b"!")

    def _run(self) -> None:
        with selectors.DefaultSelector() as bell:
            bell.register(self._bell, selectors.EVENT_READ)
            while not self._closing:
                # Frozen, sockets that are ready stay ready: asking for them as well would never wait.
                ready = bell.select() if self._frozen else self._selector.select(self._pause_s())
                if any(key.fileobj is self._bell for key, _ in ready):
                    self._bell.recv(CHUNK_BYTES_MAX)
                with self._lock:
                    if not self._frozen and not self._closing:
                        self._serve(ready)

    def _pause_s(self) -> float | None:
        """Until when a parked pipe may go on; None if none is parked."""
        return min((lane.wait_s() for lane in (self._up, self._down) if lane.parked), default=None)

    def _serve(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, events in ready:
            if key.fileobj is self._listener:
                for client in self._accepted():
                    self._connect(client)
            elif key.data is not None:
                for pipe in key.data.pipes:
                    readable = key.fileobj is pipe.source and events & selectors.EVENT_READ
                    writable = key.fileobj is pipe.sink and events & selectors.EVENT_WRITE
                    if readable or (writable and pipe.pending):
                        self._forward(pipe, park=pipe.lane.wait_s() > 0)
        for lane in (self._up, self._down):
            while lane.parked and lane.wait_s() == 0:
                pipe = lane.parked.popleft()
                pipe.parked = False
                self._forward(pipe, park=False)

    def _accepted(self) -> Iterator[socket.socket]:
        while self._listener is not None:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            yield client

    def _connect(self, client: socket.socket) -> None:
        target = self._tuned(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        for end in (client, target):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(client, target, self._up, self._down)
        self._connections.add(connection)
        self.connections_total += 1
        # Most refusals show later, at the first read or write.
        if target.connect_ex(self.target) not in (0, errno.EINPROGRESS):
            self._drop(connection)
        else:
            self._watch(connection)

    def _tuned(self, end: socket.socket) -> socket.socket:
        if self._throttled:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, SOCKET_BYTES_THROTTLED)
        return end

    def _forward(self, pipe: Pipe, *, park: bool) -> None:
        """One chunk, now or when it is this pipe's turn in its lane."""
        if pipe.connection.closed:
            return
        if park:
            pipe.park()
        else:
            self._forward_now(pipe)
        if not pipe.connection.closed:
            self._watch(pipe.connection)

    def _forward_now(self, pipe: Pipe) -> None:
        try:
            sent = pipe.move(self._scratch, self._left)
        except BlockingIOError:
            return
        except OSError:
            self._drop(pipe.connection)
            return
        pipe.lane.count(sent)
        if self._left is not None:
            self._left -= sent
        if self._left == 0:
            self._left = None
            self._cut()
        elif all(each.finished for each in pipe.connection.pipes):
            self._drop(pipe.connection, reset=False)
        elif pipe.lane.bucket is not None and not pipe.pending and not pipe.ended:
            pipe.park()  # most likely there is more, and asking for it when it may pass is cheaper than being told

    def _watch(self, connection: Connection) -> None:
        """Ask for what the pipes of a connection can go on with: a pipe reads again once all it has is sent."""
        for end in connection.sockets:
            events = 0
            for pipe in connection.pipes:
                if end is pipe.sink and pipe.pending and not pipe.parked:
                    events |= selectors.EVENT_WRITE
                if end is pipe.source and not pipe.pending and not pipe.parked and not pipe.ended:
                    events |= selectors.EVENT_READ
            known = self._selector.get_map().get(end)
            if known is None and events:
                self._selector.register(end, events, connection)
            elif known is not None and not events:
                self._selector.unregister(end)
            elif known is not None and known.events != events:
                self._selector.modify(end, events, connection)

    def _cut(self) -> None:
        for client in self._accepted():
            _close(client, reset=True)
        for connection in list(self._connections):
            self._drop(connection)

    def _drop(self, connection: Connection, *, reset: bool = True) -> None:
        self._connections.discard(connection)
        connection.closed = True
        for end in connection.sockets:
            if end in self._selector.get_map():
                self._selector.unregister(end)
            _close(end, reset=reset)


def _close(end: socket.socket, *, reset: bool) -> None:
    if reset:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    end.close()


def _bound(port: int) -> socket.socket:
    """A socket at that port of loopback, which others with SO_REUSEADDR may share until one listens."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setblocking(False)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", port))
    return found
