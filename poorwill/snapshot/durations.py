"""Lengths of time as people write them: `48h`, `30m`, `2d`, `1d12h`."""

from __future__ import annotations

import re

from poorwill.errors import UsageError

SECONDS_MAX = 10 * 366 * 86_400
_UNITS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_WRITTEN = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}){unit})?" for unit in _UNITS))


def seconds_of(text: str) -> int:
    """Seconds in `text`: numbers with units w, d, h, m (minutes) and s, the largest first, each at most once.
    UsageError for anything else, and for more than ten years."""
    found = _WRITTEN.fullmatch(text.strip()) if len(text) <= 64 else None
    if found is None or not found[0]:
        raise UsageError(f"'{text[:64]}' is not a duration: write for example 30m, 48h, 2d or 1d12h")
    seconds = sum(int(found[unit] or 0) * each for unit, each in _UNITS.items())
    if seconds > SECONDS_MAX:
        raise UsageError(f"'{text[:64]}' is longer than ten years")
    return seconds


def as_text(seconds: float) -> str:
    """The same the other way, in whole seconds; `seconds_of` reads it back. Negative lengths count as 0."""
    left, written = max(0, int(seconds)), ""
    for unit, each in list(_UNITS.items())[1:]:
        number, left = divmod(left, each)
        written += f"{number}{unit}" if number else ""
    return written or "0s"


def rough(seconds: float) -> str:
    """For tables: the two largest units that are not zero, `3d4h` for 3 days, 4 hours and 12 minutes."""
    return "".join(re.findall(r"[0-9]+[dhms]", as_text(seconds))[:2])
