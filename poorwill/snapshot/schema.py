"""Which fields a sealed document has: a checksum proves that nothing was damaged, not that anything is there.

Fields beyond these are allowed, and ignored. docs/snapshot-format.md says what each one means.
"""

from __future__ import annotations

from typing import Any

from poorwill.errors import Corrupt
from poorwill.snapshot import ids, keys

Spec = Any
"""A type, a tuple of types, a dict (these fields at least), or a list of one spec (any number of such)."""

_MANIFEST: Spec = {"key": str, "bytes": int, "blake3": str}
_TOTALS = (
    "entries",
    "files",
    "chunks",
    "parts",
    "raw_bytes",
    "data_bytes",
    "stored_bytes",
    "sent_bytes",
    "sent_raw_bytes",
)
_SNAPSHOT: Spec = {
    "machine": str,
    "snapshot_id": str,
    "created_at": str,
    "workspace": str,
    "instance": str,
    "parent": (str, type(None)),
    "tool": {"name": str, "version": str},
    "codec": str,
    "portable": bool,
    "needs": [str],
    "manifest": _MANIFEST,
    "parts": [{"key": str, "bytes": int, "borrowed": bool}],
    "totals": dict.fromkeys(_TOTALS, int),
    "codecs": {},
    "left_out": [{"path": str, "reason": str}],
    "left_out_count": int,
    "facts": {},
    "timings_ms": {},
}
_CODING: Spec = {"by": str, "codec": str, "reason": str, "rates_mb_s": {}, "versions": {}, "fell_back": int}
_OPTIONAL: dict[str, Spec] = {
    "snapshot": {"name": str, "tags": [str], "converted_from": str, "coding": _CODING},
    "trash": {"name": str, "tags": [str], "converted_from": str, "coding": _CODING},
    "pending": {"converted_from": str},
}
_KINDS: dict[str, Spec] = {
    "snapshot": _SNAPSHOT,
    "trash": {**_SNAPSHOT, "trashed_at_s": int},
    "pending": {
        "machine": str,
        "snapshot_id": str,
        "workspace": str,
        "instance": str,
        "parent": (str, type(None)),
        "borrows": [str],
        "plan_hash": (str, type(None)),
        "started_at": str,
        "tool": {"name": str, "version": str},
    },
    "verified": {
        "machine": str,
        "snapshot_id": str,
        "instance": str,
        "manifest": _MANIFEST,
        "mode": str,
        "verified_at_s": int,
        "by": {"name": str, "version": str, "engine": str},
        "bytes_read": int,
        "chunks_sampled": int,
        "parts": [{"key": str, "bytes": int, "read": bool}],
    },
}


def check(document: dict[str, Any], kind: str, what: str) -> None:
    """Corrupt, naming the field, unless `document` has what its kind must have; other kinds are not looked at."""
    spec = _KINDS.get(kind)
    if spec is None:
        return
    given = {name: found for name, found in _OPTIONAL.get(kind, {}).items() if name in document}
    misfit = _misfit(document, {**spec, **given}, "")
    if misfit is not None:
        raise Corrupt(f"{what}: field '{misfit}' is missing or of the wrong type")
    machine, snapshot_id = document["machine"], document["snapshot_id"]
    if not ids.is_machine_name(machine) or not ids.is_snapshot_id(snapshot_id):
        raise Corrupt(f"{what}: describes {machine!r}/{snapshot_id!r}, which are no names")
    named = document.get("manifest")
    if named is not None and named["key"] != keys.manifest(machine, snapshot_id):
        raise Corrupt(f"{what}: its manifest is {named['key']!r}, expected {keys.manifest(machine, snapshot_id)!r}")
    for part in document.get("parts", []):
        if not keys.is_part(part["key"]):
            raise Corrupt(f"{what}: {part['key']!r} is not the key of a part")


def fields_of(kind: str) -> frozenset[str]:
    """The names of the fields that a document of `kind` must have."""
    return frozenset(_KINDS[kind])


def optional_fields_of(kind: str) -> frozenset[str]:
    """The names of the fields that one may have besides; where it has one, it is of its type."""
    return frozenset(_OPTIONAL.get(kind, ()))


def _misfit(value: object, spec: Spec, where: str) -> str | None:
    """Where the first difference is, as a dotted path; None where there is none."""
    if isinstance(spec, dict):
        if not isinstance(value, dict):
            return where
        below = f"{where}." if where else ""
        found = (_misfit(value[k], s, below + k) if k in value else below + k for k, s in spec.items())
        return next((f for f in found if f is not None), None)
    if isinstance(spec, list):
        if not isinstance(value, list):
            return where
        found = (_misfit(item, spec[0], f"{where}[{i}]") for i, item in enumerate(value))
        return next((f for f in found if f is not None), None)
    if spec is int:
        return None if type(value) is int and 0 <= value < 1 << 63 else where
    return None if isinstance(value, spec) else where
