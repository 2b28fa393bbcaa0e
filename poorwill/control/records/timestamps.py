"""Times as metadata tells them."""

from __future__ import annotations

import time
from datetime import datetime, timezone


def now() -> str:
    """`YYYY-MM-DDTHH:MM:SSZ`, in UTC."""
    return f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def since_ms(began_s: float) -> int:
    """Milliseconds since a moment of the monotonic clock."""
    return round((time.monotonic() - began_s) * 1000)
