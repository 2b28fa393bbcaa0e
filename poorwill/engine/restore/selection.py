"""Which entries of a snapshot a restore wants."""

from __future__ import annotations

import os

import numpy as np

from poorwill.engine.journal import NAME
from poorwill.errors import Corrupt, Refused
from poorwill.snapshot.columns import Array
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.tables import Kind, Manifest


def selected(manifest: Manifest, include: Globs) -> Array:
    """Which entries to restore (bool): those that match, all below them, and the directories above.

    Refused if nothing matches. Corrupt if the snapshot holds what a restore calls its own.
    """
    _refuse_own_name(manifest)
    entries = manifest.entries
    if not include:
        return np.ones(len(entries), bool)
    wanted = np.zeros(len(entries), bool)
    parent = entries.parent.tolist()
    for row in range(1, len(entries)):
        wanted[row] = wanted[parent[row]] or include.match(entries.path(row))
    linked = entries.link[wanted & (entries.kind == Kind.HARDLINK)]
    wanted[linked] = True
    for row in range(len(entries) - 1, 0, -1):
        if wanted[row]:
            wanted[parent[row]] = True
    wanted[0] = True
    if not wanted[1:].any():
        raise Refused("no entry of the snapshot matches --include: nothing was restored")
    return wanted


def _refuse_own_name(manifest: Manifest) -> None:
    first, stop = manifest.entries.children()
    for row in range(int(first[0]), int(stop[0])):
        if manifest.entries.name[row] == NAME:
            raise Corrupt(f"the snapshot holds an entry {os.fsdecode(NAME)!r}, the restore's own journal")
