"""Sizes as people read them."""

from __future__ import annotations


def human(count: float) -> str:
    """Bytes for people, in powers of ten as stores bill them."""
    if abs(count) < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if abs(count) < 1000:
            return f"{count:.2f} {unit}"
    return f"{count / 1000:.2f} TB"
