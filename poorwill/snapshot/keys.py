"""Where the objects of a snapshot lie below a store's prefix."""

from __future__ import annotations

import re

from poorwill.snapshot import ids

SNAPSHOTS = "snapshots/"
PENDING = "pending/"
PARTS = "parts/"
MANIFESTS = "manifests/"
VERIFIED = "verified/"
TRASH = "trash/"
INTENTS = "intents/"
_REMOVING = ".removing"
_CLOCK = f"{TRASH}clock-"
_PART = re.compile(rf"{PARTS}{ids.MACHINE.pattern}/{ids.SNAPSHOT_ID.pattern}/[0-9]{{2}}")
Owner = tuple[str, str]
"""Machine and snapshot id."""


def pending(machine: str, snapshot_id: str) -> str:
    return f"{PENDING}{machine}/{snapshot_id}.json"


def part(machine: str, snapshot_id: str, number: int) -> str:
    return f"{PARTS}{machine}/{snapshot_id}/{number:02d}"


def parts_of(machine: str, snapshot_id: str) -> str:
    return f"{PARTS}{machine}/{snapshot_id}/"


def manifest(machine: str, snapshot_id: str) -> str:
    return f"{MANIFESTS}{machine}/{snapshot_id}"


def metadata(machine: str, snapshot_id: str) -> str:
    return f"{SNAPSHOTS}{machine}/{snapshot_id}.json"


def metadata_of(machine: str) -> str:
    return f"{SNAPSHOTS}{machine}/"


def verified(machine: str, snapshot_id: str) -> str:
    return f"{VERIFIED}{machine}/{snapshot_id}.json"


def trash(machine: str, snapshot_id: str) -> str:
    return f"{TRASH}{machine}/{snapshot_id}.json"


def removing(machine: str, snapshot_id: str) -> str:
    """The mark that the removal of a snapshot's objects has begun; beside its trash record, in the same listing."""
    return f"{TRASH}{machine}/{snapshot_id}{_REMOVING}"


def clock(nonce: str) -> str:
    """An object that lives for a moment, to learn what time it is by the store's clock."""
    return f"{_CLOCK}{nonce}"


def is_clock(key: str) -> bool:
    return key.startswith(_CLOCK) and "/" not in key.removeprefix(TRASH)


def intent(label: str) -> str:
    return f"{INTENTS}{label}.json"


def owner_of(key: str) -> Owner | None:
    """(machine, snapshot id) that a key of any snapshot's object belongs to; None for a key of another shape."""
    fields = key.split("/")
    if len(fields) < 3 or not ids.is_machine_name(fields[1]):
        return None
    snapshot_id = fields[2].removesuffix(".json")
    return (fields[1], snapshot_id) if ids.is_snapshot_id(snapshot_id) else None


def marked_owner(key: str) -> Owner | None:
    """(machine, snapshot id) if `removing` can have given this key."""
    owner = owner_of(key.removesuffix(_REMOVING)) if key.endswith(_REMOVING) else None
    return owner if owner is not None and key == removing(*owner) else None


def is_part(key: str) -> bool:
    """Whether `part` can have given this key."""
    return _PART.fullmatch(key) is not None and ".." not in key
