"""What a relay forwards through: one pipe for each direction of a connection, and the lane that they share."""

from __future__ import annotations

import socket
from collections import deque

from bench.network.token_bucket import TokenBucket

CHUNK_BYTES_MAX = 256 << 10


class Lane:
    """One direction of the link, for all connections together."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self.bucket = None if bytes_per_second is None else TokenBucket(bytes_per_second)
        self.bytes_passed = 0
        # Pipes that have something to forward and wait for the bucket, in turn.
        self.parked: deque[Pipe] = deque()

    def wait_s(self) -> float:
        """0 if a chunk may pass now."""
        return 0.0 if self.bucket is None else self.bucket.wait_s(owed=bool(self.parked))

    def count(self, size: int) -> None:
        self.bytes_passed += size
        if self.bucket is not None:
            self.bucket.spend(size)


class Pipe:
    """One direction of one connection."""

    def __init__(self, connection: Connection, source: socket.socket, sink: socket.socket, lane: Lane) -> None:
        self.connection, self.source, self.sink, self.lane = connection, source, sink, lane
        self.chunk_bytes = CHUNK_BYTES_MAX if lane.bucket is None else lane.bucket.chunk_bytes
        self.pending = b""
        self.ended = self.finished = self.parked = False

    def park(self) -> None:
        if not self.parked:
            self.parked = True
            self.lane.parked.append(self)

    def move(self, scratch: memoryview, size_max: int | None) -> int:
        """Forward a chunk, at most `size_max` of it, or the end. Returns the size; BlockingIOError if none is there."""
        data: memoryview | bytes = self.pending
        if not data and not self.ended:
            size = self.source.recv_into(scratch, self.chunk_bytes)
            self.ended = size == 0
            data = scratch[:size]
        try:
            sent = self.sink.send(data[:size_max]) if data else 0
        except BlockingIOError:
            sent = 0
        self.pending = bytes(data[sent:])
        if self.ended and not self.pending and not self.finished:
            self.finished = True
            self.sink.shutdown(socket.SHUT_WR)
        return sent


class Connection:
    """A client's socket, the one to the target, and the two pipes between them."""

    def __init__(self, client: socket.socket, target: socket.socket, up: Lane, down: Lane) -> None:
        self.sockets = (client, target)
        self.pipes = (Pipe(self, client, target, up), Pipe(self, target, client, down))
        self.closed = False
