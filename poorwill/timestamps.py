"""Times as documents and providers hold them: UTC to the second, `YYYY-MM-DDTHH:MM:SSZ`."""

from __future__ import annotations

import time
from datetime import datetime, timezone

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def now() -> str:
    return text_of(time.time())


def text_of(posix_s: float) -> str:
    return f"{datetime.fromtimestamp(posix_s, timezone.utc):{_FORMAT}}"


def posix_s(text: str) -> float | None:
    """POSIX seconds of such a time; None for any other text, which a provider may give."""
    try:
        return datetime.strptime(text, _FORMAT).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def since_ms(began_s: float) -> int:
    """Milliseconds since a time of the monotonic clock."""
    return round((time.monotonic() - began_s) * 1000)
