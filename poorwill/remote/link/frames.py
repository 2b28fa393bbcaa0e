"""What passes between a Link and the keeper on a machine: a marker line, then frames.

A frame is its kind (one byte), the length of its body (four, big-endian), and the body:

    HELLO  version u8, epoch u32, received u64   the first frame of either side: go on from that offset
    DATA   offset u64, bytes                     of the stream from its sender
    ACK    offset u64                            everything before it was read, and need not be kept
    END    offset u64                            the sender's stream ends there
    PING, PONG
    CLOSE  grace in ms u32                       client: end the engine, by force after that time
    ENDED  status i32, UTF-8                     keeper: the engine's exit status and what it last said
    NO     code u8, UTF-8                        keeper: it has no engine for this client, and why
    SWEEP, BUSY                                  a keeper that starts asks an older one to end; it has a client
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from poorwill.errors import Corrupt

VERSION = 1
MARKER = b"\nPOORWILL-KEEPER %d\n" % VERSION
NOISE_BYTES_MAX = 64 << 10
"""How much a login shell may print before the marker."""
DATA_BYTES_MAX = 64 << 10
WORDS_BYTES_MAX = 32 << 10
REASON_BYTES_MAX = 2048
_HEAD = struct.Struct(">BI")
_HELLO = struct.Struct(">BIQ")
_OFFSET = struct.Struct(">Q")
_GRACE = struct.Struct(">I")
_STATUS = struct.Struct(">i")


class Kind(IntEnum):
    HELLO = 1
    DATA = 2
    ACK = 3
    END = 4
    PING = 5
    PONG = 6
    CLOSE = 7
    ENDED = 8
    NO = 9
    SWEEP = 10
    BUSY = 11


class No(IntEnum):
    """Why a keeper has no engine for its client."""

    GONE = 1
    EXISTS = 2
    UNFIT = 3
    OCCUPIED = 4


class NoEngine(Exception):
    """A keeper has no engine for its client. It passes from the keeper to the Link as a frame NO."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


_LENGTHS = {
    Kind.HELLO: (_HELLO.size, _HELLO.size),
    Kind.DATA: (_OFFSET.size + 1, _OFFSET.size + DATA_BYTES_MAX),
    Kind.ACK: (_OFFSET.size, _OFFSET.size),
    Kind.END: (_OFFSET.size, _OFFSET.size),
    Kind.PING: (0, 0),
    Kind.PONG: (0, 0),
    Kind.CLOSE: (_GRACE.size, _GRACE.size),
    Kind.ENDED: (_STATUS.size, _STATUS.size + WORDS_BYTES_MAX),
    Kind.NO: (1, 1 + REASON_BYTES_MAX),
    Kind.SWEEP: (0, 0),
    Kind.BUSY: (0, 0),
}
FRAME_BYTES_MAX = _HEAD.size + max(most for _, most in _LENGTHS.values())


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it arrived; its length is what its kind allows."""

    kind: Kind
    body: bytes

    def hello(self) -> Hello:
        return Hello(*_HELLO.unpack(self.body))

    def data(self) -> tuple[int, bytes]:
        return self.offset(), self.body[_OFFSET.size :]

    def offset(self) -> int:
        return int(_OFFSET.unpack_from(self.body)[0])

    def grace_s(self) -> float:
        return float(_GRACE.unpack(self.body)[0]) / 1000

    def ended(self) -> tuple[int, str]:
        return int(_STATUS.unpack_from(self.body)[0]), self.body[_STATUS.size :].decode("utf-8", "replace")

    def no(self) -> NoEngine:
        return NoEngine(self.body[0], self.body[1:].decode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class Hello:
    """`received`: how many bytes of the other's stream arrived. `epoch` grows with every connection of a client."""

    version: int
    epoch: int
    received: int

    def encode(self) -> bytes:
        return encode(Kind.HELLO, _HELLO.pack(self.version, self.epoch, self.received))


def encode(kind: Kind, body: bytes | bytearray = b"") -> bytes:
    return _HEAD.pack(kind, len(body)) + body


def data(offset: int, piece: bytes | bytearray) -> bytes:
    return encode(Kind.DATA, _OFFSET.pack(offset) + piece)


def at(kind: Kind, offset: int) -> bytes:
    """ACK or END."""
    return encode(kind, _OFFSET.pack(offset))


def close(grace_s: float) -> bytes:
    return encode(Kind.CLOSE, _GRACE.pack(min(max(int(grace_s * 1000), 0), 2**32 - 1)))


def ended(status: int, words: str) -> bytes:
    return encode(Kind.ENDED, _STATUS.pack(status) + words.encode("utf-8", "replace")[-WORDS_BYTES_MAX:])


def no(code: int, reason: str) -> bytes:
    return encode(Kind.NO, bytes([code]) + reason.encode("utf-8", "replace")[:REASON_BYTES_MAX])


class Decoder:
    """Cuts a stream into frames. Keeps less than FRAME_BYTES_MAX bytes of a frame that is not whole yet."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Corrupt if they are malformed; the stream cannot be read after that."""
        kept = self._kept
        kept += data
        frames, at = [], 0
        while len(kept) - at >= _HEAD.size:
            number, length = _HEAD.unpack_from(kept, at)
            kind = _kind(number, length)
            end = at + _HEAD.size + length
            if len(kept) < end:
                break
            frames.append(Frame(kind, bytes(kept[at + _HEAD.size : end])))
            at = end
        del kept[:at]
        return frames


def _kind(number: int, length: int) -> Kind:
    try:
        kind = Kind(number)
    except ValueError:
        raise Corrupt(f"keeper protocol: no frame is of kind {number}") from None
    least, most = _LENGTHS[kind]
    if not least <= length <= most:
        raise Corrupt(f"keeper protocol: a frame {kind.name} of {length} bytes, expected {least} to {most}")
    return kind
