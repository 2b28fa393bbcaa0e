"""Two byte streams that survive the connections they travel on: one end of them, without any I/O.

Bytes are kept until the other end has read them; after a cut each end says how many arrived, and the rest is sent
again. So both streams arrive complete, in order and once. Nothing here is thread-safe.
"""

from __future__ import annotations

from poorwill.errors import Corrupt
from poorwill.remote.link import frames
from poorwill.remote.link.frames import Frame, Kind

WINDOW_BYTES = 32 << 20
ACK_BYTES = 256 << 10
ACK_S = 1.0


class Outbox:
    """Bytes to the other end, kept from `base` (all before was read there) to `end`; at most `window_bytes` of them."""

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._kept = bytearray()
        self.base = 0
        self.sent = 0
        self.finished = False
        self.resent_bytes = 0
        self._sent_once = 0

    @property
    def end(self) -> int:
        return self.base + len(self._kept)

    @property
    def room(self) -> int:
        return self._window_bytes - len(self._kept)

    def append(self, data: bytes | memoryview) -> None:
        """At most `room` bytes."""
        self._kept += data

    def rewind(self, received: int) -> None:
        """Send again from there, on a new connection. Corrupt for an offset whose bytes are not kept."""
        if not self.base <= received <= self._sent_once:
            raise Corrupt(f"keeper protocol: asked for offset {received}, kept are {self.base} to {self._sent_once}")
        self.sent = received

    def piece(self) -> tuple[int, bytearray]:
        """Offset and bytes of what to send next, which counts as sent from here on."""
        start = self.sent
        data = self._kept[start - self.base : start - self.base + frames.DATA_BYTES_MAX]
        self.sent += len(data)
        self.resent_bytes += max(0, min(self.sent, self._sent_once) - start)
        self._sent_once = max(self._sent_once, self.sent)
        return start, data

    def taken(self, offset: int) -> None:
        """The other end has read everything before `offset`: forget it."""
        if offset > self.sent:
            raise Corrupt(f"keeper protocol: offset {offset} was acknowledged, sent are {self.sent}")
        if offset > self.base:
            del self._kept[: offset - self.base]
            self.base = offset


class Inbox:
    """Bytes from the other end, which may send `window_bytes` more than were acknowledged to it."""

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._kept = bytearray()
        self.received = 0
        self.finished = False
        self._acknowledged = 0
        self._read_s: float | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, offset: int, data: bytes) -> None:
        if offset != self.received or self.finished:
            raise Corrupt(f"keeper protocol: bytes of offset {offset}, expected {self.received}")
        if offset + len(data) - self._acknowledged > self._window_bytes:
            raise Corrupt(f"keeper protocol: more than {self._window_bytes} bytes before any was acknowledged")
        self._kept += data
        self.received += len(data)

    def peek(self, bytes_max: int) -> bytearray:
        return self._kept[:bytes_max]

    def skip(self, count: int, now_s: float) -> None:
        """`count` bytes were read."""
        del self._kept[:count]
        if count and self._read_s is None:
            self._read_s = now_s

    def forget(self) -> None:
        """An acknowledgement may be lost: repeat it at once on the next connection."""
        self._read_s = float("-inf")

    def ack_due_s(self) -> float | None:
        """When to acknowledge what was read; None while there is nothing to acknowledge."""
        if self._read_s is None:
            return None
        enough = self.received - len(self._kept) - self._acknowledged >= ACK_BYTES
        return float("-inf") if enough else self._read_s + ACK_S

    def ack(self) -> int:
        """The offset to acknowledge, which counts as acknowledged from here on."""
        self._acknowledged, self._read_s = self.received - len(self._kept), None
        return self._acknowledged


class Conversation:
    """Both streams of one end. `piece` is what to write to the connection; `take` gets the frames read from it."""

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self.outbox, self.inbox = Outbox(window_bytes), Inbox(window_bytes)
        self._pong_due = self._ping_due = self._end_sent = False

    def resume(self, received: int) -> None:
        """Go on with a new connection, whose other end has `received` so many bytes. Corrupt if that cannot be."""
        self.outbox.rewind(received)
        self.inbox.forget()
        self._pong_due = self._ping_due = self._end_sent = False

    def ping(self) -> None:
        self._ping_due = True

    def take(self, frame: Frame) -> bool:
        """Whether this frame is about the streams. Corrupt if it does not fit them."""
        if frame.kind is Kind.DATA:
            self.inbox.put(*frame.data())
        elif frame.kind is Kind.ACK:
            self.outbox.taken(frame.offset())
        elif frame.kind is Kind.END:
            if frame.offset() != self.inbox.received:
                raise Corrupt(f"keeper protocol: an end at {frame.offset()}, expected {self.inbox.received}")
            self.inbox.finished = True
        elif frame.kind is Kind.PING:
            self._pong_due = True
        elif frame.kind is not Kind.PONG:
            return False
        return True

    def due_s(self) -> float | None:
        """When `piece` has something to send; None while it has nothing."""
        if self._pong_due or self._ping_due or not self.settled:
            return float("-inf")
        return self.inbox.ack_due_s()

    @property
    def settled(self) -> bool:
        """Whether everything was written to this connection."""
        return self.outbox.sent == self.outbox.end and (self._end_sent or not self.outbox.finished)

    def piece(self, now_s: float) -> bytes:
        """The next bytes for the connection, about DATA_BYTES_MAX at most; b"" if there is nothing to send."""
        out = []
        if self._pong_due:
            out.append(frames.encode(Kind.PONG))
        if self._ping_due:
            out.append(frames.encode(Kind.PING))
        self._pong_due = self._ping_due = False
        due_s = self.inbox.ack_due_s()
        if due_s is not None and due_s <= now_s:
            out.append(frames.at(Kind.ACK, self.inbox.ack()))
        if self.outbox.sent < self.outbox.end:
            out.append(frames.data(*self.outbox.piece()))
        elif not self.settled:
            out.append(frames.at(Kind.END, self.outbox.end))
            self._end_sent = True
        return b"".join(out)
