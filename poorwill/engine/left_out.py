"""What a snapshot, or a restore, does without."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A path below the workspace, and why it, or something of it, is left out."""

    path: bytes
    reason: str
