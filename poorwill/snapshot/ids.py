"""Snapshot ids and machine names."""

from __future__ import annotations

import re
import secrets
from datetime import datetime, timezone

from poorwill.errors import UsageError

SNAPSHOT_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
MACHINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def new_snapshot_id(now: datetime | None = None) -> str:
    """`YYYYMMDDTHHMMSSZ-<8 hex>` in UTC: sorts by time, unique by 32 random bits within a second."""
    now = datetime.now(timezone.utc) if now is None else now.astimezone(timezone.utc)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def id_behind(snapshot_id: str) -> str:
    """A new id of the same second that sorts behind `snapshot_id`: for the same content in another form, which is no
    younger. Where there is hardly an id behind it (once in 65,536 times), any of that second."""
    least = int(snapshot_id[17:], 16) + 1
    room = (1 << 32) - least
    number = least + secrets.randbelow(room) if room >= 1 << 16 else secrets.randbits(32)
    return f"{snapshot_id[:17]}{number:08x}"


def begun_at(snapshot_id: str) -> datetime | None:
    """The time in a snapshot id, in UTC; None for a time that does not exist: an id need only have its shape."""
    try:
        return datetime.strptime(snapshot_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def ranked_ms(snapshot_id: str, committed_at_ms: int | None) -> int:
    """By which the snapshots of a machine are ordered, before their ids: POSIX milliseconds.

    It is when the snapshot was first committed; without that (older writers do not tell it) the time in its id, or 0.
    """
    if committed_at_ms is not None:
        return committed_at_ms
    begun = begun_at(snapshot_id)
    return round(begun.timestamp() * 1000) if begun is not None else 0


def is_snapshot_id(text: str) -> bool:
    return SNAPSHOT_ID.fullmatch(text) is not None


def is_machine_name(text: str) -> bool:
    return MACHINE.fullmatch(text) is not None and ".." not in text


def checked_snapshot_id(text: str) -> str:
    """`text`, or UsageError."""
    if not is_snapshot_id(text):
        raise UsageError(f"'{text}' is not a snapshot id: expected YYYYMMDDTHHMMSSZ-<8 hex digits>")
    return text


def checked_machine_name(text: str) -> str:
    """`text`, or UsageError."""
    if not is_machine_name(text):
        raise UsageError(
            f"'{text}' cannot name a machine: expected up to 63 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit, without '..'"
        )
    return text


def machine_name_from(host: str) -> str:
    """A valid machine name made from a host name."""
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]", "-", host)).lstrip("._-")[:63]
    return name if is_machine_name(name) else "machine"
