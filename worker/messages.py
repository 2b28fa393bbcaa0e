"""The messages between a worker and its resident processes, over the child's stdin and stdout: JSON lines.

to the child      {"run": id}                    run this flow run; only after `ready` or `ended`
                  {"cancel": id, "why": text}    stop it at its next step
                  {"terminate": id}              stop it where it is, by an exception; the process goes with it
                  end of file                    end
from the child    {"event": "ready"}
                  {"event": "ended", "run": id, "error": text or null, "unreachable": whether that is Prefect's
                   server, "retire": text or null, "rss_bytes": n}
"""

from __future__ import annotations

import json
from typing import Any

LINE_BYTES_MAX = 64 << 10
TEXT_MAX = 2000


def encode(**message: Any) -> bytes:
    """One line. Texts are cut at TEXT_MAX, so that a line stays below LINE_BYTES_MAX."""
    short = {k: v[:TEXT_MAX] if isinstance(v, str) else v for k, v in message.items()}
    return json.dumps(short).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """ValueError if the line is not a JSON object."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message
