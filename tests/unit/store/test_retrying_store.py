"""RetryingStore over FaultyStore: what is tried again, how often, after which pauses."""

from __future__ import annotations

import pytest

from poorwill.errors import (
    Corrupt,
    GrantExpired,
    NotFound,
    PermanentError,
    StoreRefused,
    StoreUnavailable,
    TransientError,
)
from poorwill.retry import Backoff
from poorwill.store.base import Piece, Store
from poorwill.store.local import LocalStore
from poorwill.store.retrying import RetryingStore
from tests.support.doubles.faulty_store import Fault, FaultyStore

DOWN = StoreUnavailable("the store is down")


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waits: list[float] = []

    def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)
        self.now_s += wait_s


def retrying(inner: Store, time: Time, **options: float) -> RetryingStore:
    chosen = {"attempts_max": 5, "total_s": 1000.0, **options}
    return RetryingStore(
        inner,
        Backoff(1.0, 6.0, chosen["attempts_max"]),
        total_s=chosen["total_s"],
        sleep=time.sleep,
        clock=lambda: time.now_s,
        uniform=lambda: 0.999,
    )


OPERATIONS = {
    "put": lambda store: store.put("k", b"new"),
    "put_new": lambda store: store.put_new("n", b"new"),
    "put_fenced": lambda store: store.put_fenced("k", b"new", lambda: None),
    "get": lambda store: store.get("k"),
    "get_range": lambda store: store.get_range("k", 0, 1),
    "head": lambda store: store.head("k"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("k"),
    "create_upload": lambda store: store.create_upload("u"),
    "complete_upload": lambda store: store.complete_upload("k", "0" * 32, [Piece(1, "")], 3),
    "abort_upload": lambda store: store.abort_upload("k", "0" * 32),
    "list_uploads": lambda store: list(store.list_uploads("")),
    "list_pieces": lambda store: store.list_pieces("p", store.create_upload("p")),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_tried_again(local_store: LocalStore, operation: str) -> None:
    """Two transient errors, then success: three calls reach the store."""
    local_store.put("k", b"old")
    time = Time()
    faulty = FaultyStore(local_store, [Fault(operation, call=n, error=DOWN) for n in (1, 2)])
    OPERATIONS[operation](retrying(faulty, time))
    assert faulty.calls[operation] == 3
    assert len(time.waits) == 2


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("error", [Corrupt("c"), NotFound("n"), StoreRefused("r"), ValueError("v")], ids=repr)
def test_permanent_errors_pass_at_once(local_store: LocalStore, operation: str, error: Exception) -> None:
    """Also an error of another kind, which is a bug."""
    local_store.put("k", b"old")
    time = Time()
    faulty = FaultyStore(local_store, [Fault(operation, error=error)])
    with pytest.raises(type(error)) as caught:
        OPERATIONS[operation](retrying(faulty, time))
    assert caught.value is error
    assert (faulty.calls[operation], time.waits) == (1, [])


def test_attempts_are_bounded(local_store: LocalStore) -> None:
    """After attempts_max attempts the last error comes out, without a pause after it."""
    time = Time()
    faulty = FaultyStore(local_store, [Fault("get", call=0, error=GrantExpired("old"))])
    with pytest.raises(GrantExpired, match="old"):
        retrying(faulty, time, attempts_max=4).get("k")
    assert faulty.calls["get"] == 4
    assert len(time.waits) == 3


def test_pauses_double_up_to_a_maximum_with_jitter(local_store: LocalStore) -> None:
    """Doubling from the first to the longest, each between half of that and all of it."""
    faulty = FaultyStore(local_store, [Fault("get", call=0, error=DOWN)])
    for uniform, share in ((0.0, 0.5), (0.5, 0.75)):
        time = Time()
        store = RetryingStore(
            faulty,
            Backoff(1.0, 6.0, 6),
            total_s=1000,
            sleep=time.sleep,
            clock=lambda now=time: now.now_s,
            uniform=lambda value=uniform: value,
        )
        with pytest.raises(StoreUnavailable):
            store.get("k")
        assert time.waits == [share * ceiling for ceiling in (1, 2, 4, 6, 6)]


def test_the_time_is_bounded(local_store: LocalStore) -> None:
    """No pause begins that would end after total_s, also if the attempts themselves took the time."""
    time = Time()
    faulty = FaultyStore(local_store, [Fault("get", call=0, error=DOWN)])
    with pytest.raises(StoreUnavailable):
        retrying(faulty, time, attempts_max=100, total_s=10).get("k")
    assert sum(time.waits) <= 10 and len(time.waits) == 3

    class Slow(LocalStore):
        def head(self, key: str) -> None:  # type: ignore[override]
            time.now_s += 11
            raise DOWN

    time.waits.clear()
    with pytest.raises(StoreUnavailable):
        retrying(Slow(local_store.url.removeprefix("file://")), time, total_s=10).head("k")
    assert time.waits == []


def test_a_listing_goes_on_where_it_broke(local_store: LocalStore) -> None:
    """Every key once and in order, though the listing breaks after its first item, twice."""
    for number in range(5):
        local_store.put(f"k/{number}", b"")
    faults = [Fault("list", call=n, error=DOWN, after=True) for n in (1, 2)]
    faulty = FaultyStore(local_store, faults)
    found = [info.key for info in retrying(faulty, Time()).list("k/")]
    assert found == [f"k/{number}" for number in range(5)]
    assert faulty.calls["list"] == 3


def test_put_new_whose_answer_was_lost_is_ours(local_store: LocalStore) -> None:
    """The first attempt wrote and then failed: the second finds the same bytes, which is success."""
    faulty = FaultyStore(local_store, [Fault("put_new", error=DOWN, after=True)])
    assert retrying(faulty, Time()).put_new("slot", b"mine") is True
    assert faulty.calls["put_new"] == 2


def test_put_new_of_another_is_not_ours(local_store: LocalStore) -> None:
    """False for other bytes under the key, whether or not an attempt failed before."""
    local_store.put("slot", b"theirs, longer")
    faulty = FaultyStore(local_store, [Fault("put_new", error=DOWN)])
    assert retrying(faulty, Time()).put_new("slot", b"mine") is False
    assert retrying(local_store, Time()).put_new("slot", b"theirs") is False


def test_completing_whose_answer_was_lost_succeeds(local_store: LocalStore) -> None:
    """The retry of a completed upload finds it complete."""
    upload_id = local_store.create_upload("u")
    faulty = FaultyStore(local_store, [Fault("complete_upload", error=DOWN, after=True)])
    retrying(faulty, Time()).complete_upload("u", upload_id, [Piece(1, "")], 0)
    assert faulty.calls["complete_upload"] == 2
    assert local_store.head("u").size == 0


def test_only_transient_errors_are_transient() -> None:
    """No error is both transient and permanent."""
    assert not issubclass(TransientError, PermanentError)
    assert not issubclass(PermanentError, TransientError)


def test_faults_change_bytes(local_store: LocalStore) -> None:
    """A flipped bit and a cut end, when reading and when writing, at the given call."""
    local_store.put("k", b"\x00\x00\x00")
    faulty = FaultyStore(
        local_store,
        [
            Fault("get", call=2, flip_bit=9),
            Fault("get_range", truncate_to=1, key_part="k"),
            Fault("put", truncate_to=2, flip_bit=0),
        ],
    )
    assert [faulty.get("k") for _ in range(3)] == [b"\0\0\0", b"\0\x02\0", b"\0\0\0"]
    assert faulty.get_range("k", 0, 3) == b"\0"
    faulty.put("cut", b"\0\0\0")
    assert local_store.get("cut") == b"\x01\0"
    assert faulty.calls == {"get": 3, "get_range": 1, "put": 1}
