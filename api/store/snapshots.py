"""The snapshots of the store, as lists show them.

A snapshot's metadata never changes, so it is read once and remembered; which snapshots there are is asked each time.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cachetools import LRUCache

from poorwill.control.records import catalog
from poorwill.errors import Corrupt, NotFound, Unsupported
from poorwill.snapshot import ids, keys
from poorwill.snapshot.metadata import Metadata
from poorwill.store.base import Store

OPENED_S = 300.0
TAGS_MAX = 100
VERIFIED = "verified/"
Name = tuple[str, str]
"""Machine and snapshot id."""


@dataclass(frozen=True, slots=True)
class Row:
    """One snapshot in a list. `problem` says why the rest is empty: its metadata cannot be read."""

    machine: str
    id: str
    name: str | None = None
    tags: tuple[str, ...] = ()
    instance_id: str | None = None
    workspace_path: str | None = None
    created_at: str | None = None
    parent: str | None = None
    files: int = 0
    raw_bytes: int = 0
    data_bytes: int = 0
    stored_bytes: int = 0
    sent_bytes: int = 0
    needs: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def ratio(self) -> float | None:
        """Bytes of data for each stored byte."""
        return round(self.data_bytes / self.stored_bytes, 3) if self.stored_bytes else None


@dataclass(frozen=True, slots=True)
class Page:
    """Newest first. `before` is that of the next page, None after the last one. `verified`: when the snapshots of this
    page were last verified, by the store's clock in POSIX seconds."""

    rows: tuple[Row, ...]
    verified: dict[Name, float]
    before: str | None


class Catalog:
    """The snapshots of one store. Blocking and thread-safe; errors are the store's.

    `opened` opens the store, when it is needed and again after OPENED_S: its keys may have been replaced.
    """

    def __init__(self, opened: Callable[[], Store]) -> None:
        self._opened = opened
        self._store: Store | None = None
        self._store_before: Store | None = None
        self._until_s = float("-inf")
        self._lock = threading.Lock()
        self._rows: LRUCache[Name, Row] = LRUCache(20_000)
        self._readers = ThreadPoolExecutor(8, thread_name_prefix="catalog")

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            stores, self._store, self._store_before = (self._store, self._store_before), None, None
        for store in stores:
            if store is not None:
                store.close()

    @property
    def store(self) -> Store:
        """It stays open for at least OPENED_S."""
        with self._lock:
            if self._store is not None and time.monotonic() < self._until_s:
                return self._store
            opened = self._opened()
            if self._store is not None and self._store.describe() != opened.describe():
                self._rows.clear()
            if self._store_before is not None:
                self._store_before.close()
            self._store, self._store_before, self._until_s = opened, self._store, time.monotonic() + OPENED_S
            return opened

    def names(self, machines: Iterable[str] | None = None) -> Iterator[Name]:
        """The snapshots of all machines, or of these."""
        if machines is None:
            yield from catalog.names(self.store)
            return
        for machine in machines:
            yield from catalog.names(self.store, ids.checked_machine_name(machine))

    def page(self, machines: Iterable[str] | None, limit: int, before: str | None = None) -> Page:
        """The newest `limit` snapshots that are older than `before`, which an earlier page gave. UsageError for any
        other `before`."""
        _ = self.store  # opened here, in the caller's thread, and not by a reader
        known = sorted(machines) if machines is not None else None
        older = _parsed(before) if before is not None else None
        listed = self._readers.submit(self._verified, known)
        aged = ((snapshot_id, machine) for machine, snapshot_id in self.names(known))
        newest = heapq.nlargest(limit + 1, (key for key in aged if older is None or key < older))
        wanted = [(machine, snapshot_id) for snapshot_id, machine in newest[:limit]]
        rows = tuple(row for row in self.rows(wanted) if row is not None)
        verified = listed.result()
        following = f"{newest[limit - 1][0]}:{newest[limit - 1][1]}" if len(newest) > limit else None
        return Page(rows, {name: verified[name] for name in wanted if name in verified}, following)

    def rows(self, names: Iterable[Name]) -> list[Row | None]:
        """One for each name, several read at once; None for one that is gone, a `problem` for a damaged one."""
        return list(self._readers.map(self._row, names))

    def remembered(self, name: Name) -> Row | None:
        """The row, if it is known without asking the store."""
        with self._lock:
            return self._rows.get(name)

    def one(self, snapshot_id: str) -> tuple[Row, float | None]:
        """A snapshot of any machine, and when it was last verified. NotFound, UsageError."""
        machine = self.machine_of(snapshot_id)
        row = self._row((machine, snapshot_id))
        if row is None:
            raise NotFound(f"snapshot {snapshot_id} does not exist in {self.store.describe()}")
        try:
            return row, self.store.head(keys.verified(machine, snapshot_id)).modified_s
        except NotFound:
            return row, None

    def machine_of(self, snapshot_id: str) -> str:
        """The machine of a snapshot. NotFound, UsageError."""
        ids.checked_snapshot_id(snapshot_id)
        with self._lock:
            seen = next((machine for machine, found in self._rows if found == snapshot_id), None)
        if seen is not None:
            try:
                self.store.head(keys.metadata(seen, snapshot_id))
                return seen
            except NotFound:
                pass
        return catalog.machine_of(self.store, snapshot_id)

    def _verified(self, machines: list[str] | None) -> dict[Name, float]:
        """When each was verified: the time of its record, so that thousands of records need not be read."""
        prefixes = [VERIFIED] if machines is None else [f"{VERIFIED}{machine}/" for machine in machines]
        found = (listed for prefix in prefixes for listed in self.store.list(prefix))
        owned = ((keys.owner_of(listed.key), listed.modified_s) for listed in found)
        return {owner: modified_s for owner, modified_s in owned if owner is not None}

    def _row(self, name: Name) -> Row | None:
        if (known := self.remembered(name)) is not None:
            return known
        try:
            row = _row_of(catalog.read(self.store, *name))
        except NotFound:
            return None
        except (Corrupt, Unsupported) as error:
            return Row(*name, problem=error.message)
        with self._lock:
            self._rows[name] = row
        return row


def _parsed(before: str) -> Name:
    snapshot_id, _, machine = before.partition(":")
    return ids.checked_snapshot_id(snapshot_id), ids.checked_machine_name(machine)


def _row_of(metadata: Metadata) -> Row:
    totals = metadata.totals
    return Row(
        machine=metadata.machine,
        id=metadata.snapshot_id,
        name=metadata.name,
        tags=metadata.tags[:TAGS_MAX],
        instance_id=metadata.instance or None,
        workspace_path=metadata.workspace or None,
        created_at=metadata.created_at or None,
        parent=metadata.parent,
        needs=metadata.needs,
        files=totals.files,
        raw_bytes=totals.raw_bytes,
        data_bytes=totals.data_bytes,
        stored_bytes=totals.stored_bytes,
        sent_bytes=totals.sent_bytes,
    )
