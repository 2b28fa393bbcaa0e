"""Which entries of a scan are those of an earlier one, unchanged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from poorwill.engine.pack.scan import Scan
from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Entries, Kind


class Comparison(NamedTuple):
    """For each entry of a scan: `rows`, its row in the earlier one if it is the same file, unchanged since, else -1;
    `alike`, whether all that can be seen of it is the same, trusted or not."""

    rows: Array
    alike: Array


def _ticks_ns(times: Array) -> Array:
    # File systems with whole-second times need a wider margin than those with kernel ticks (4-10 ms). A workspace may
    # lie on several, so each time is judged by itself: on a coarse one all of them are whole seconds.
    return np.where(times % 1_000_000_000 == 0, 2_000_000_000, 20_000_000)


def racy(entries: Entries, scanned_at_ns: int) -> Array:
    """Files changed so shortly before the scan that a later change could carry the same times. bool.

    So may those whose times are ahead of the clock: when their own clock gets there is not known.
    """
    return entries.ctime_ns >= scanned_at_ns - _ticks_ns(entries.ctime_ns)


def unsure(scan: Scan) -> Array:
    """Entries that may change later and keep the times that the scan saw. bool."""
    return racy(scan.entries, scan.scanned_at_ns) & ~scan.at_rest


def unsure_for_s(scan: Scan) -> float:
    """After so many seconds another scan can trust what this one cannot; 0 if it trusts everything."""
    times = scan.entries.ctime_ns[unsure(scan)]
    return float(_ticks_ns(times).max()) / 1e9 if len(times) else 0.0


def compare(now: Scan, before: Entries, before_scanned_at_ns: int, at_rest: Array | None = None) -> Comparison:
    """The same file: same path, kind, size, mtime, ctime and inode, and not racy when it was scanned.

    at_rest: entries of `before` that were found to be at rest, whatever their times say.
    """
    matched = same_paths(now.entries, before)
    rows = np.flatnonzero(matched >= 0)
    old = matched[rows]
    same = np.ones(len(rows), bool)
    for column in ("kind", "size", "mtime_ns", "ctime_ns", "inode"):
        same &= getattr(now.entries, column)[rows] == getattr(before, column)[old]
    alike = np.zeros(len(now.entries), bool)
    alike[rows] = same
    trusted = ~racy(before, before_scanned_at_ns)
    if at_rest is not None:
        trusted |= at_rest
    matched[rows[~(same & trusted[old])]] = -1
    return Comparison(matched, alike)


def same_paths(now: Entries, before: Entries) -> Array:
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
