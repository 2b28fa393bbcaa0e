"""Which workers count as dead: rules over heartbeats, without clocks of other hosts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from worker.heartbeats import MISSED, Heartbeats

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
STEP_S = 5


@given(
    interval_s=st.integers(1, 60),
    steps=st.lists(st.tuples(st.integers(1, STEP_S), st.booleans()), max_size=60),
    skew_s=st.integers(-1_000_000, 1_000_000),
)
def test_a_worker_without_heartbeats_while_watched_is_dead(
    interval_s: int, steps: list[tuple[int, bool]], skew_s: int
) -> None:
    """Exactly then, however the server's clock differs from ours."""
    watch, now_s, beat = Heartbeats(gap_s_max=STEP_S), 0, START + timedelta(seconds=skew_s)
    watch.observe({"w": (beat, interval_s)}, now_s)
    silent_since_s = now_s
    for step_s, beats in steps:
        now_s += step_s
        if beats:
            beat, silent_since_s = beat + timedelta(seconds=1), now_s
        watch.observe({"w": (beat, interval_s)}, now_s)
        assert watch.dead("w") == (now_s - silent_since_s >= MISSED * interval_s)


def test_no_worker_counts_as_dead_after_an_outage_of_the_server() -> None:
    """No heartbeat could arrive while it was away: the watch begins anew."""
    watch = Heartbeats(gap_s_max=30)
    watch.observe({"w": (START, 10)}, 0)
    watch.observe({"w": (START, 10)}, 20)
    watch.observe({"w": (START, 10)}, 320)
    assert not watch.dead("w")
    watch.observe({"w": (START, 10)}, 349)
    assert not watch.dead("w")
    watch.observe({"w": (START, 10)}, 350)
    assert watch.dead("w")


def test_an_unknown_worker_is_not_dead() -> None:
    """A worker without a record, one whose record went, and one that never gave an interval."""
    watch = Heartbeats(gap_s_max=1000)
    watch.observe({"a": (START, None), "b": (START, 1)}, 0)
    watch.observe({"a": (START, None)}, 100)
    assert not watch.dead("never seen") and not watch.dead("b") and watch.dead("a")
