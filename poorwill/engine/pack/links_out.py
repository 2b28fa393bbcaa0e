"""Which symbolic links of a workspace lead out of it: what they lead to is not kept."""

from __future__ import annotations

import os

import numpy as np

from poorwill.engine.pack.scan import Scan
from poorwill.snapshot.surroundings import LINKS_MAX, TEXT_MAX, LinksOut
from poorwill.snapshot.tables import Kind


def links_out(scan: Scan, workspace: bytes) -> LinksOut:
    """By their targets alone, without following any. workspace: its path as it was named; it may be a link itself."""
    roots = (scan.root, os.path.abspath(workspace))
    total, shown = 0, list[str]()
    rows = np.flatnonzero(scan.entries.kind == Kind.SYMLINK)
    for row, number in zip(rows.tolist(), scan.entries.link[rows].tolist(), strict=True):
        target = scan.targets.target[number]
        if not target.startswith(b"/") and b".." not in target:
            continue
        path = scan.path(row)
        if not _is_below(os.path.normpath(os.path.join(os.path.dirname(path), target)), roots):
            total += 1
            if len(shown) < LINKS_MAX:
                text = f"{os.fsdecode(scan.entries.path(row))} -> {os.fsdecode(target)}"
                shown.append(text[:TEXT_MAX])
    return LinksOut(total, tuple(shown))


def _is_below(path: bytes, roots: tuple[bytes, bytes]) -> bool:
    return any(path == root or path.startswith(root + b"/") for root in roots)
