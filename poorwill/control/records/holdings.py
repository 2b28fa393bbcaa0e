"""What a store holds, as whoever removes something must know it: the snapshots there are, and the parts each needs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from poorwill.control.records.pending import Pending
from poorwill.control.records.trash import Trashed
from poorwill.errors import Corrupt, NotFound, Refused, Unsupported
from poorwill.snapshot import keys
from poorwill.snapshot.columns import Array
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.record import SnapshotRecord
from poorwill.snapshot.shrinkage import Extent
from poorwill.store.base import ObjectInfo, Store

THREADS = 16
AHEAD = 4 * THREADS
"""How many answers may lie ready before they are looked at: bounds memory, for a document may have 16 MiB."""
_NUMBERS = 100  # two decimal digits
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S", bound=SnapshotRecord)


class PartNumbers:
    """Parts of a store as integers: 10,000 snapshots of 32 parts are then a few megabytes. Thread-safe."""

    def __init__(self) -> None:
        self._rows: dict[Owner, int] = {}
        self._owners: list[Owner] = []
        self._lock = threading.Lock()

    def of(self, parts: Iterable[str]) -> Array:
        """int64, one for each key of a part."""
        found = []
        for key in parts:
            _, machine, snapshot_id, number = key.split("/")
            found.append(self.row((machine, snapshot_id)) * _NUMBERS + int(number))
        return np.array(found, np.int64)

    def row(self, owner: Owner) -> int:
        """What the numbers of a snapshot's own parts have in common."""
        with self._lock:
            if owner not in self._rows:
                self._rows[owner] = len(self._owners)
                self._owners.append(owner)
            return self._rows[owner]

    def rows(self, numbers: Array) -> Array:
        """The same for each of `numbers`."""
        found: Array = numbers // _NUMBERS
        return found

    def key(self, number: int) -> str:
        """The key of a part that was numbered here."""
        return keys.part(*self._owners[number // _NUMBERS], number % _NUMBERS)


@dataclass(frozen=True, slots=True)
class Held:
    """A snapshot's metadata, or its trash record, without what removal does not ask for.

    `parts` are numbers of all parts it needs, its own and borrowed ones, and `sizes` their bytes. `modified_s` is when
    that document was written, by the store's clock.
    """

    owner: Owner
    modified_s: float
    document_bytes: int
    name: str | None
    tags: tuple[str, ...]
    committed_at_ms: int | None
    extent: Extent
    raw_bytes: int
    manifest_bytes: int
    parts: Array
    sizes: Array


@dataclass(frozen=True, slots=True)
class Begun:
    """A snapshot being made: its pending record, and when that was written, by the store's clock."""

    record: Pending
    modified_s: float


@dataclass(frozen=True, slots=True)
class Needs:
    """Parts that must stay: `parts`, sorted numbers, and every part of the snapshots whose ids are `whole`."""

    parts: Array
    whole: frozenset[str]

    def of(self, owner: Owner, numbers: Array) -> Array:
        """Which of a snapshot's own parts are needed. bool."""
        if owner[1] in self.whole or not len(self.parts):
            return np.full(len(numbers), owner[1] in self.whole)
        places = np.minimum(np.searchsorted(self.parts, numbers), len(self.parts) - 1)
        found: Array = self.parts[places] == numbers
        return found


@dataclass(slots=True)
class Holdings:
    """What was there at the last `refresh`. Documents that cannot be read are named in `unreadable`.

    threads: how many documents are asked for at once.
    """

    store: Store
    threads: int = THREADS
    numbers: PartNumbers = field(default_factory=PartNumbers)
    pending: dict[Owner, Begun] = field(default_factory=dict)
    committed: dict[Owner, Held] = field(default_factory=dict)
    trash: dict[Owner, Held] = field(default_factory=dict)
    removing: set[Owner] = field(default_factory=set)
    strays: list[ObjectInfo] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def refresh(self) -> None:
        """Look again, in this order, which misses no snapshot that moves on meanwhile:

        Pending ones first: one that is committed while they are listed has its metadata by the time the pending record
        goes, so that it is seen among the committed ones, at the latest. Those before the trash: one that is removed
        meanwhile has its trash record before its metadata goes.

        Documents that were read before are not read again: but for pending ones, they are never changed.
        """
        self.unreadable = []
        self.pending = self._pending()
        self.committed = self._held(keys.SNAPSHOTS, Metadata, self.committed)
        self.trash = self._held(keys.TRASH, Trashed, self.trash)

    def check_readable(self) -> None:
        """Refused if anything could not be read: it may need parts that nothing else does."""
        if self.unreadable:
            raise Refused(f"nothing is removed while this cannot be read: {'; '.join(self.unreadable[:10])}")

    def needs(self, without: Set[Owner] = frozenset()) -> Needs:
        """What all snapshots but those of `without` need: committed, in the trash, or being taken.

        What one that is being taken has of its own is not told: who removes leaves it alone as a whole.
        """
        every = [held for owner, held in (*self.committed.items(), *self.trash.items()) if owner not in without]
        parts = np.unique(np.concatenate([np.zeros(0, np.int64), *(held.parts for held in every)]))
        return Needs(parts, frozenset().union(*(begun.record.borrows for begun in self.pending.values())))

    def own(self, held: Held) -> Array:
        """Which of the parts it needs are its own. bool."""
        found: Array = self.numbers.rows(held.parts) == self.numbers.row(held.owner)
        return found

    def is_parent(self, owner: Owner) -> bool:
        """Whether a snapshot being taken is compared with it, and so reads its manifest."""
        return any(begun.record.parent == owner[1] for begun in self.pending.values())

    def _pending(self) -> dict[Owner, Begun]:
        found = self._records(self._listed(keys.PENDING), Pending)
        return {record.owner: Begun(record, info.modified_s) for info, record in found}

    def _held(self, prefix: str, kind: type[Metadata], before: dict[Owner, Held]) -> dict[Owner, Held]:
        listed = self._listed(prefix)
        known = {owner: before[owner] for owner, info in listed.items() if _same(before.get(owner), info)}
        new = {owner: info for owner, info in listed.items() if owner not in known}
        read = {record.owner: self._reduced(info, record) for info, record in self._records(new, kind)}
        return {**known, **read}

    def _listed(self, prefix: str) -> dict[Owner, ObjectInfo]:
        """Objects with the key of a document of a snapshot; others are somebody else's, or marks."""
        if prefix == keys.TRASH:
            self.removing, self.strays = set(), []
        found: dict[Owner, ObjectInfo] = {}
        for info in self.store.list(prefix):
            owner, marked = keys.owner_of(info.key), keys.marked_owner(info.key)
            if owner is not None and info.key == f"{prefix}{owner[0]}/{owner[1]}.json":
                found[owner] = info
            elif prefix == keys.TRASH and marked is not None:
                self.removing.add(marked)
            elif prefix == keys.TRASH and keys.is_clock(info.key):
                self.strays.append(info)
        return found

    def _records(self, listed: dict[Owner, ObjectInfo], kind: type[S]) -> Iterator[tuple[ObjectInfo, S]]:
        """Of all that are still there. What cannot be read is noted."""

        def read(info: ObjectInfo) -> S | Corrupt | Unsupported | None:
            try:
                return kind.unseal(self.store.get(info.key), info.key)
            except NotFound:
                return None  # it has moved on since it was listed
            except (Corrupt, Unsupported) as error:
                return error

        for info, found in at_once(read, listed.values(), self.threads):
            if isinstance(found, (Corrupt, Unsupported)):
                self.unreadable.append(found.message)
            elif found is not None:
                yield info, found

    def _reduced(self, info: ObjectInfo, metadata: Metadata) -> Held:
        return Held(
            owner=metadata.owner,
            modified_s=info.modified_s,
            document_bytes=info.size,
            name=metadata.name,
            tags=metadata.tags,
            committed_at_ms=metadata.committed_at_ms,
            extent=metadata.extent,
            raw_bytes=metadata.totals.raw_bytes,
            manifest_bytes=metadata.manifest.bytes,
            parts=self.numbers.of(part.key for part in metadata.parts),
            sizes=np.array([part.bytes for part in metadata.parts], np.int64),
        )


def at_once(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[tuple[T, R]]:
    """(item, work(item)) for all, in their order, at most `threads` at a time and AHEAD in memory.

    The first error ends it. One thread: on this one, without any other.
    """
    if threads <= 1:
        yield from ((item, work(item)) for item in items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="holdings") as pool:
        waiting: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) >= AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _same(before: Held | None, info: ObjectInfo) -> bool:
    return before is not None and (before.modified_s, before.document_bytes) == (info.modified_s, info.size)
