"""Which entries of a scan are those of an earlier one, unchanged."""

from __future__ import annotations

import numpy as np

from poorwill.engine.pack.scan import Scan
from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Entries, Kind


def _tick_ns(times: Array) -> int:
    # File systems with whole-second times need a wider margin than those with kernel ticks (4-10 ms).
    return 2_000_000_000 if len(times) and not (times % 1_000_000_000).any() else 20_000_000


def racy(entries: Entries, scanned_at_ns: int) -> Array:
    """Files changed so shortly before the scan that a later change could carry the same times. bool."""
    return entries.ctime_ns >= scanned_at_ns - _tick_ns(entries.ctime_ns)


def racy_for_s(scan: Scan) -> float:
    """After so many seconds another scan can trust what this one cannot; 0 if it trusts everything."""
    entries = scan.entries
    return _tick_ns(entries.ctime_ns) / 1e9 if racy(entries, scan.scanned_at_ns).any() else 0.0


def unchanged_since(now: Scan, before: Entries, before_scanned_at_ns: int) -> Array:
    """For each entry its row in `before` if path, kind, size, mtime, ctime and inode are the same and it was not racy
    when it was scanned; else -1. int64."""
    matched = _same_paths(now.entries, before)
    rows = np.flatnonzero(matched >= 0)
    old = matched[rows]
    same = ~racy(before, before_scanned_at_ns)[old]
    for column in ("kind", "size", "mtime_ns", "ctime_ns", "inode"):
        same &= getattr(now.entries, column)[rows] == getattr(before, column)[old]
    matched[rows[~same]] = -1
    return matched


def _same_paths(now: Entries, before: Entries) -> Array:
    """For each entry of `now` the row of the same path in `before`, or -1. int64."""
    matched = np.full(len(now), -1, np.int64)
    if not len(before):
        return matched
    matched[0] = 0
    old_first, old_stop = before.children()
    new_first, new_stop = now.children()
    directories = np.flatnonzero(now.kind == Kind.DIRECTORY)
    bounds = zip(directories.tolist(), new_first[directories].tolist(), new_stop[directories].tolist(), strict=True)
    for row, a, b in bounds:
        old = int(matched[row])
        if old < 0:
            continue
        c, d = int(old_first[old]), int(old_stop[old])
        if a == b or c == d:
            continue
        ours, theirs = now.name.slice(a, b), before.name.slice(c, d)
        if ours.data == theirs.data and np.array_equal(ours.ends, theirs.ends):
            matched[a:b] = np.arange(c, d)
            continue
        index = {name: i for i, name in enumerate(theirs, c)}
        matched[a:b] = [index.get(name, -1) for name in ours]
    return matched
