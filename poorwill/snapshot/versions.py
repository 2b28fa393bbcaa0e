"""Which versions of each kind of document are read, and which one is written.

docs/snapshot-format.md says which changes need a new version, and what an older reader does with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from poorwill.errors import Corrupt, Unsupported

_FORMAT = re.compile(r"poorwill-([a-z]{1,40})/([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Versions:
    """Of one kind: versions `oldest` to `newest` are read, and `written` is written."""

    oldest: int
    newest: int
    written: int


BY_KIND = {
    "manifest": Versions(oldest=1, newest=1, written=1),
    "part index": Versions(oldest=1, newest=1, written=1),
    "snapshot": Versions(oldest=1, newest=1, written=1),
    "pending": Versions(oldest=1, newest=1, written=1),
    "verified": Versions(oldest=1, newest=1, written=1),
    "trash": Versions(oldest=1, newest=1, written=1),
    "removing": Versions(oldest=1, newest=1, written=1),
    "intent": Versions(oldest=1, newest=1, written=1),
    "weights": Versions(oldest=1, newest=1, written=1),
    "video": Versions(oldest=1, newest=1, written=1),
}


def written_format(kind: str) -> str:
    """What stands in the field `format` of a document that is written now."""
    return f"poorwill-{kind}/{BY_KIND[kind].written}"


def check_format(found: object, kind: str, what: str) -> None:
    """Check the field `format` of a document that should be of `kind`; `what` is its key. Corrupt for another kind, or
    for anything but a format; Unsupported for a version that is not read."""
    parsed = _FORMAT.fullmatch(found) if isinstance(found, str) else None
    if parsed is None or parsed[1] != kind:
        raise Corrupt(f"{what}: its format is {repr(found)[:80]}, expected poorwill-{kind}")
    check(int(parsed[2]), kind, what)


def check(found: object, kind: str, what: str) -> None:
    """Corrupt if `found` is not a version at all, Unsupported if it is none of those that are read of `kind`."""
    versions = BY_KIND[kind]
    if type(found) is not int or found < 1:
        raise Corrupt(f"{what}: its version of the {kind} format is {repr(found)[:80]}, expected an integer from 1")
    if versions.oldest <= found <= versions.newest:
        return
    readable = f"version {versions.oldest}"
    if versions.newest > versions.oldest:
        readable = f"versions {versions.oldest} to {versions.newest}"
    age = "a newer" if found > versions.newest else "an older"
    raise Unsupported(
        f"{what}: version {found} of the {kind} format, this poorwill reads {readable}: use {age} poorwill"
    )
