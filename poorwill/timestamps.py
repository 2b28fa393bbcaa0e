"""Times as documents and providers hold them, UTC to the second, `YYYY-MM-DDTHH:MM:SSZ`; and how long stages take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def timed(timings_ms: dict[str, int], stage: str) -> Iterator[None]:
    """Add the milliseconds that a stage takes, also one that fails; a stage that is repeated adds up."""
    began_s = time.monotonic()
    try:
        yield
    finally:
        timings_ms[stage] = timings_ms.get(stage, 0) + round((time.monotonic() - began_s) * 1000)
