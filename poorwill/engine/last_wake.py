"""Which snapshot was last restored into a workspace, and whether it was all of it: remembered on the machine.

A workspace that was woken in part is whole as a directory, and lacks most of what its machine had. It is known by its
path, and where it was moved since, as the directory that it is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from poorwill.engine import state
from poorwill.engine.identity import identity_of
from poorwill.snapshot.surroundings import Woken
from poorwill.snapshot.tables import Manifest

WAKES_MAX = 256


class _Wake(NamedTuple):
    path: str
    directory: str
    woken: Woken


def begun(root: bytes, manifest: Manifest, whole: bool) -> list[str]:
    """Remember a wake in part, before anything of it is restored; of what the user has to be warned."""
    failed = _remember(root, Woken(manifest.machine, manifest.snapshot_id, partial=True)) if not whole else ""
    if not failed:
        return []
    return [
        f"that {os.fsdecode(root)} holds only a part could not be noted ({failed}): hibernate takes it for the whole"
    ]


def ended(root: bytes, manifest: Manifest, whole: bool) -> None:
    """Remember a whole wake, while there is still its mark in the workspace."""
    if whole:
        _remember(root, Woken(manifest.machine, manifest.snapshot_id, partial=False))


def _remember(root: bytes, woken: Woken) -> str:
    """Instead of what was remembered of this workspace; why that failed, or ""."""
    try:
        wake = _wake(root, woken)
        name = hashlib.sha256(f"{wake[:2]}".encode("utf-8", "replace"))
        path = state.state_dir() / f"wake-{name.hexdigest()[:24]}.json"
        state.save(path, wake, WAKES_MAX)
        for other, _ in _of(wake):
            if other != path:
                other.unlink(missing_ok=True)
    except OSError as error:
        return str(error.strerror)
    return ""


def recall(root: bytes) -> Woken | None:
    """None if nothing is known."""
    try:
        found = [wake.woken for _, wake in _of(_wake(root, Woken("", "", False)))]
    except OSError:
        return None
    return max(found, key=lambda woken: woken.partial, default=None)


def _wake(root: bytes, woken: Woken) -> _Wake:
    return _Wake(os.fsdecode(os.path.realpath(root)), identity_of(root), woken)


def _of(wake: _Wake) -> Iterator[tuple[Path, _Wake]]:
    """The files about the same path or the same directory."""
    for path in list(state.state_dir().glob("wake-*.json"))[: 2 * WAKES_MAX]:
        found = state.load(path, _Wake)
        if found is not None and (wake.path == found.path or wake.directory == found.directory):
            yield path, found
