"""The engine's JSON-lines protocol, as docs/engine-protocol.md specifies it: shapes and bounds, for both ends.

Control writes requests to the engine's stdin, the engine writes events to its stdout; one JSON object a line.
"""

from __future__ import annotations

import json
from typing import IO, Any

from poorwill.errors import Corrupt, EngineLost

VERSION = 1
LINE_BYTES_MAX = 16 << 20
PAGE_BYTES = 192 << 10
"""How much of a manifest one event carries, before base64."""
HEARTBEAT_S = 0.25
REQUESTS_MAX = 256

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def read(stream: IO[bytes]) -> Message | None:
    """The next message, or None at the end of the stream. Corrupt for what is no message, EngineLost for a cut one."""
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
