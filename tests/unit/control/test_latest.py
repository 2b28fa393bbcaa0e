"""Which snapshot of a machine is the newest: the one that was committed last, whatever ids and clocks say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.control.records import catalog, clock, trash
from poorwill.snapshot import ids, keys
from poorwill.snapshot.metadata import ManifestReference, Metadata
from tests.support.documents import METADATA
from tests.support.memory_store import MemoryStore

NOW_S = ids.ranked_ms("20260101T120000Z-00000000", None) / 1000


class CountingStore(MemoryStore):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = NOW_S
        self.read = 0

    def get(self, key: str, **bounds: Any) -> bytes:
        self.read += 1
        return super().get(key, **bounds)


def metadata(snapshot_id: str, committed_at_ms: int | None) -> Metadata:
    manifest = ManifestReference(keys.manifest("m", snapshot_id), 1, "00")
    return replace(METADATA, snapshot_id=snapshot_id, manifest=manifest, parts=(), committed_at_ms=committed_at_ms)


def put(store: MemoryStore, snapshot_id: str, committed_at_ms: int | None) -> None:
    found = metadata(snapshot_id, committed_at_ms)
    store.put(found.key, found.seal())


def named(number: int, second: int = 0) -> str:
    return f"20260101T1100{second:02d}Z-{number:08x}"


def test_the_last_commit_is_the_newest() -> None:
    """A hibernation that waited for its machine has the older id and the later state."""
    store = CountingStore()
    put(store, named(2, second=9), round(NOW_S * 1000))
    store.now_s += 60
    put(store, named(1), round(store.now_s * 1000))
    assert catalog.latest(store, "m") == named(1)
    assert [snapshot_id for snapshot_id, _ in catalog.newest_first(store, "m")] == [named(1), named(2, second=9)]
    assert catalog.latest(store, "other") is None


def test_one_that_does_not_tell_has_the_time_of_its_id() -> None:
    """As older writers made it; of one moment the ids decide."""
    store = CountingStore()
    for number in (1, 3, 2):
        put(store, named(number), None)
    assert catalog.latest(store, "m") == named(3)
    put(store, named(0, second=1), ids.ranked_ms(named(0, second=1), None))
    assert catalog.latest(store, "m") == named(0, second=1)


def test_few_are_read() -> None:
    """Of a thousand that were written where they lie, the last ones."""
    store = CountingStore()
    for number in range(1000):
        store.now_s += 60
        put(store, named(number), round(store.now_s * 1000) - 500)
    assert catalog.latest(store, "m") == named(999) and store.read <= 3


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8) | st.none(), st.integers(0, 8)), max_size=8))
def test_a_copy_has_the_same_newest(made: list[tuple[int, int | None, int]]) -> None:
    """Whatever times a copy of the store gave to its objects after all of them were there."""
    store = CountingStore()
    for number, (second, committed, copied) in enumerate(made):
        store.now_s = NOW_S + 100 + copied * 1000
        at_ms = None if committed is None else round(NOW_S * 1000) + committed * 10_000
        put(store, named(number, second), at_ms)
    found = [metadata for _, metadata in catalog.newest_first(store, "m") if metadata is not None]
    assert found == sorted(found, key=lambda each: (each.ranked_ms, each.snapshot_id), reverse=True)
    assert len(found) == len(made)


def test_a_copy_with_times_of_long_ago() -> None:
    """As of an archive that keeps none: they are not believed."""
    store = CountingStore()
    for number, committed in enumerate((5, 9, 7)):
        store.now_s = 0.0
        put(store, named(number), round(NOW_S * 1000) + committed)
    assert catalog.latest(store, "m") == named(1)


def test_one_that_cannot_be_read_is_not_passed_over() -> None:
    """A wake of the latest must say that it is damaged, and not quietly wake the one before."""
    store = CountingStore()
    put(store, named(1), round(NOW_S * 1000))
    store.now_s += 60
    store.put(keys.metadata("m", named(0)), b"damaged")
    assert next(catalog.newest_first(store, "m")) == (named(0), None)


@pytest.mark.parametrize("step_s", [60.0, 0.0, -3600.0, -400 * 86_400.0])
def test_a_commit_is_behind_all_before_it(step_s: float) -> None:
    """Also if the store's clock did not move, or was set back."""
    store = CountingStore()
    put(store, named(7, second=9), round(NOW_S * 1000))
    store.now_s += step_s
    store.put(keys.manifest("m", named(1)), b"manifest")
    committed_at_ms = clock.commit_time_ms(store, ("m", named(1)))
    assert committed_at_ms == max(round(store.now_s * 1000), round(NOW_S * 1000) + 1)
    put(store, named(1), committed_at_ms)
    assert catalog.latest(store, "m") == named(1)
    assert clock.commit_time_ms(store, ("m", named(1))) == committed_at_ms  # asked again: the first commit counts


def test_the_time_of_the_commit_survives_the_trash() -> None:
    """One that is brought back takes the place that it had."""
    store = CountingStore()
    first = metadata(named(1), round(NOW_S * 1000))
    store.now_s += 60
    trashed = trash.Trashed.at(round(store.now_s), first)
    assert trash.Trashed.unseal(trashed.seal(), trashed.key).metadata().ranked_ms == first.ranked_ms
