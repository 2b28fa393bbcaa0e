"""The last look at a workspace before its machine goes: whether it is still what a snapshot has."""

from __future__ import annotations

import os
from collections.abc import Collection

import numpy as np

from poorwill.engine.meter import Meter
from poorwill.engine.pack import attributes
from poorwill.engine.pack.file_systems import FileSystems
from poorwill.engine.pack.matching import Comparison, compare, same_paths, unsure_for_s
from poorwill.engine.pack.scan import Scan
from poorwill.engine.pack.workspace import PATHS_SHOWN, Seen, Workspace, check_readable
from poorwill.engine.protocol.answers import BLIND_TOLD, WRITERS_TOLD, Blind, Changes
from poorwill.engine.protocol.context import Context
from poorwill.snapshot.columns import Array
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.order import PackSettings
from poorwill.snapshot.tables import Entries, Kind, Manifest

LOOKS_MAX = 4
TICK_S = 0.02
_LONGEST_TICK_NS = 2_000_000_000
_NEVER_RACY_NS = 1 << 62
"""What was settled was at rest: whatever its times say, they move with the next write."""


class Gate:
    """Compares a workspace with the manifest of a snapshot of it. left_out: paths that the snapshot does not have."""

    def __init__(
        self,
        settings: PackSettings,
        before: Manifest,
        left_out: Collection[bytes],
        file_systems: FileSystems,
        meter: Meter,
    ) -> None:
        root = os.fsencode(settings.workspace)
        self._workspace = Workspace(root, Globs(settings.exclude), file_systems, meter)
        self._settings = settings
        self._before, self._left_out = before, frozenset(left_out)

    def changes(self, context: Context) -> Changes:
        """What differs, and who may write there still.

        A directory whose times moved, though all in it is the same, is looked at until two looks agree: what was moved
        while one went by, from where it had not looked yet to where it had, is found by the next.
        """
        seen = self._look(context)
        if self._settings.writers == "stop" and seen.writers:
            seen = self._workspace.end_writers(seen, context, ())
        found = compare(seen.scan, self._before.entries, self._before.scanned_at_ns)
        if seen.scan.scanned_at_ns - self._before.scanned_at_ns > _LONGEST_TICK_NS:
            seen.scan.at_rest = found.alike
        steady, paths = _steady(found, self._before.entries), self._differences(seen.scan)
        for _ in range(LOOKS_MAX):
            if steady or paths:
                return self._answer(seen, paths)
            context.pause(max(TICK_S, unsure_for_s(seen.scan)))
            earlier, seen = seen.scan, self._look(context)
            found = compare(seen.scan, earlier.entries, earlier.scanned_at_ns, earlier.at_rest)
            seen.scan.at_rest = found.alike
            steady, paths = _steady(found, earlier.entries), self._differences(seen.scan)
        return self._answer(seen, paths or _named(seen.scan.entries, found.rows < 0))

    def _look(self, context: Context) -> Seen:
        seen = self._workspace.look(context, (), descriptors=self._settings.writers != "ignore")
        check_readable(seen.scan.unreadable, self._settings)
        return seen

    def _differences(self, now: Scan) -> list[str]:
        """Paths added, removed or changed, or mapped so that it does not show; at most `PATHS_SHOWN`."""
        before = self._before.entries
        same = compare(now, before, _NEVER_RACY_NS).rows
        files = now.entries.kind != Kind.DIRECTORY
        gone = np.ones(len(before), bool)
        gone[same[same >= 0]] = False
        paths = _named(before, gone & (before.kind != Kind.DIRECTORY))
        paths += _named(now.entries, now.mapped | (files & (same < 0)), self._left_out)
        paths += [os.fsdecode(left.path) for left in now.unreadable if left.path not in self._left_out]
        paths += self._changed_directories(now, same)
        return sorted(set(paths))[:PATHS_SHOWN]

    def _changed_directories(self, now: Scan, same: Array) -> list[str]:
        """Those that came or went, or whose mode, owner or attributes changed: their times move with their entries."""
        before, entries = self._before.entries, now.entries
        place = same_paths(entries, before)
        rows = np.flatnonzero((entries.kind == Kind.DIRECTORY) & (same < 0))
        came = np.zeros(len(entries), bool)
        for row in rows.tolist():
            old = int(place[row])
            came[row] = old < 0 or any(
                getattr(entries, column)[row] != getattr(before, column)[old]
                for column in ("kind", "mode", "uid", "gid")
            )
            if not came[row]:
                number = int(before.xattrs[old])
                had = self._before.xattr_sets.attributes[number - 1] if number else b""
                came[row] = attributes.of_entry(now, row) != had
        went = before.kind == Kind.DIRECTORY
        went[place[place >= 0]] = False
        return _named(before, went) + _named(entries, came, self._left_out)

    def _answer(self, seen: Seen, paths: list[str]) -> Changes:
        told = sorted(seen.distrusted, key=lambda found: not found.shared)[:BLIND_TOLD]
        blind = tuple(Blind(os.fsdecode(found.path), found.why, found.shared) for found in told)
        return Changes(tuple(paths), tuple(seen.writers[:WRITERS_TOLD]), len(seen.writers), seen.hidden, blind)


def _steady(found: Comparison, before: Entries) -> bool:
    """Nothing came, went or changed."""
    return len(found.rows) == len(before) and bool((found.rows >= 0).all())


def _named(entries: Entries, chosen: Array, but: Collection[bytes] = ()) -> list[str]:
    """The paths of a few."""
    found: list[str] = []
    for row in np.flatnonzero(chosen).tolist():
        path = entries.path(row)
        if path not in but:
            found.append(os.fsdecode(path) or ".")
        if len(found) == PATHS_SHOWN:
            break
    return found
