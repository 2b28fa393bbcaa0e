"""The engine protocol's lines: one JSON object each, what frames a request, and the bounds that both ends keep.

Control writes calls, cancellations and replies to the engine's stdin, the engine writes events to its stdout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, Literal, NamedTuple

from poorwill.errors import Corrupt, EngineLost

VERSION = 1
LINE_BYTES_MAX = 16 << 20
PAGE_BYTES = 192 << 10
"""How much of a manifest one event carries, before base64."""
HEARTBEAT_S = 0.25
REQUESTS_MAX = 256
DEADLINE_S_DEFAULT = 86400.0

Message = dict[str, Any]
EventKind = Literal["result", "error", "ask", "page", "progress"]


class Call(NamedTuple):
    """What stands in the line of a request besides its own fields."""

    op: str
    id: int
    attempt: int = 1
    deadline_s: float = DEADLINE_S_DEFAULT

    def event(self, kind: EventKind, **fields: Any) -> Event:
        """One that belongs to this request."""
        return Event(kind, self.id, self.attempt, **fields)


class Cancel(NamedTuple):
    """The line with the `op` "cancel": the request that is to stop."""

    target: int


class Reply(NamedTuple):
    """The line with the `op` "answer": to the question of that number, unless there is an error."""

    ask: int
    facts: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


class Event(NamedTuple):
    """A line of the engine's. Only "progress" belongs to no request; the last fields are each of one kind of event."""

    event: EventKind
    id: int | None = None
    attempt: int | None = None
    counters: Mapping[str, int] | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    ask: int | None = None
    question: str | None = None
    facts: Mapping[str, Any] | None = None
    data: str | None = None


def encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def read(stream: IO[bytes]) -> Message | None:
    """The next line, or None at the end of the stream. Corrupt for another kind of line, EngineLost for one cut off."""
    line = stream.readline(LINE_BYTES_MAX + 1)
    if not line:
        return None
    if len(line) > LINE_BYTES_MAX:
        raise Corrupt(f"engine protocol: a line above {LINE_BYTES_MAX} bytes")
    if not line.endswith(b"\n"):
        raise EngineLost("engine protocol: the channel ended inside a line")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise Corrupt(f"engine protocol: not a JSON line: {line[:80]!r}") from None
    if not isinstance(message, dict):
        raise Corrupt(f"engine protocol: not an object: {line[:80]!r}")
    return message
