"""Backoff: how long each pause is, how many there are, and which errors are tried again."""

from __future__ import annotations

import math
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.errors import NotFound, PoorwillError, StoreUnavailable, UploadLost
from poorwill.retry import Backoff, polls, retry, retry_after_s


class Time:
    """A clock that moves only in pauses."""

    def __init__(self) -> None:
        self.now_s = 500.0
        self.slept: list[float] = []

    def sleep(self, pause_s: float) -> None:
        self.slept.append(pause_s)
        self.now_s += pause_s


seconds = st.floats(0.01, 100)


@given(
    first_s=seconds,
    max_s=seconds,
    attempts_max=st.integers(1, 12) | st.just(math.inf),
    total_s=st.floats(0, 1000),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    least_s=st.just(0.0) | st.floats(0, 200),
)
def test_pauses_stay_within_their_bounds(
    first_s: float, max_s: float, attempts_max: float, total_s: float, shares: list[float], least_s: float
) -> None:
    """From half to the whole of what doubles up to max_s, or least_s; never past the time or the attempts."""
    time, drawn = Time(), iter(shares * 1000)
    pauses = Backoff(first_s, max_s, attempts_max).pauses(
        total_s, clock=lambda: time.now_s, uniform=lambda: next(drawn)
    )
    ceiling_s = min(first_s, max_s)
    while (pause_s := pauses.next_s(least_s)) is not None and len(time.slept) < 300:
        assert max(ceiling_s / 2, least_s) <= pause_s <= max(ceiling_s, least_s)
        ceiling_s = min(2 * ceiling_s, max_s)
        time.sleep(pause_s)
    assert sum(time.slept) <= total_s + 1e-6 and pauses.attempts == len(time.slept) + (1 if pause_s is None else 2)
    assert len(time.slept) <= attempts_max - 1


def test_pauses_without_jitter_double() -> None:
    """To the millisecond, up to the longest."""
    assert list(Backoff(0.5, 3.0, 6, jitter=False).seconds()) == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(st.integers(0, 8), st.integers(1, 8))
def test_an_attempt_is_repeated_until_it_succeeds_or_the_attempts_end(failures: int, attempts_max: int) -> None:
    """The last error comes out, without a pause after it; each pause is reported with its error."""
    time, made, reported = Time(), list[int](), list[tuple[PoorwillError, float]]()
    errors = [StoreUnavailable(str(number)) for number in range(failures)]

    def attempt() -> str:
        made.append(len(made))
        if len(made) <= failures:
            raise errors[len(made) - 1]
        return "done"

    pauses = Backoff(1.0, attempts_max=attempts_max).pauses(clock=lambda: time.now_s)

    def call() -> str:
        return retry(attempt, pauses, sleep=time.sleep, on_pause=lambda *each: reported.append(each))

    if failures < attempts_max:
        assert call() == "done"
    else:
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert caught.value is errors[attempts_max - 1]
    assert pauses.attempts == len(made) == min(failures + 1, attempts_max)
    assert reported == list(zip(errors, time.slept, strict=False)) and len(time.slept) == len(made) - 1
    assert all(shorter < 2 * longer for shorter, longer in pairwise(time.slept))


@pytest.mark.parametrize("error", [NotFound("gone"), ValueError("a bug"), UploadLost("not this one")], ids=repr)
def test_other_errors_pass_at_once(error: Exception) -> None:
    """Permanent errors, bugs, and transient ones of which `when` says no."""
    made: list[int] = []

    def attempt() -> None:
        made.append(1)
        raise error

    def never(pause_s: float) -> None:
        raise AssertionError("it paused")

    with pytest.raises(type(error)):
        retry(attempt, Backoff(1.0).pauses(), when=lambda each: not isinstance(each, UploadLost), sleep=never)
    assert made == [1]


def test_a_server_may_ask_for_a_longer_pause() -> None:
    """But not for one that ends after the call's time: then the error comes out at once."""
    time = Time()
    pauses = Backoff(1.0, jitter=False).pauses(30.0, clock=lambda: time.now_s)
    asked_s = iter([0.0, 20.0, 20.0])

    def attempt() -> None:
        raise StoreUnavailable("busy")

    with pytest.raises(StoreUnavailable):
        retry(attempt, pauses, least_s=lambda error: next(asked_s), sleep=time.sleep)
    assert time.slept == [1.0, 20.0]


@pytest.mark.parametrize(
    ("header", "asked_s"),
    [
        ("7", 7.0),
        ("Sun, 09 Sep 2001 01:47:40 GMT", 60.0),
        ("Sun, 09 Sep 2001 01:45:40 GMT", -60.0),
        ("", 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("\N{SUPERSCRIPT TWO}", 0.0),
        ("Sun, 99 Sep 2001 01:47:40 GMT", 0.0),
    ],
)
def test_retry_after(header: str, asked_s: float) -> None:
    """A number of seconds or a date; anything else asks for nothing."""
    assert retry_after_s(header, 1_000_000_000.0) == asked_s


@given(interval_s=seconds, timeout_s=st.floats(0, 1000), took_s=st.floats(0, 50))
def test_the_looks_at_something_that_takes_a_while(interval_s: float, timeout_s: float, took_s: float) -> None:
    """At once, after each interval, and once when the time is over; none begins later than that."""
    time, looks = Time(), list[tuple[float, float]]()
    for left_s in islice(polls(interval_s, timeout_s, clock=lambda: time.now_s, sleep=time.sleep), 500):
        looks.append((time.now_s, left_s))
        time.now_s += took_s
    assert looks[0] == (500.0, pytest.approx(timeout_s, abs=1e-6))
    for (at_s, _), (next_s, left_s) in pairwise(looks):
        assert next_s - at_s <= max(interval_s, took_s) + took_s + 1e-6
        assert left_s == 0 or next_s < 500.0 + timeout_s
    if len(looks) < 500:
        assert looks[-1][1] == 0 and looks[-1][0] >= 500.0 + timeout_s - 1e-6
        assert [left_s for _, left_s in looks].count(0.0) == 1
