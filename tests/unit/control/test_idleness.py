"""When a machine counts as idle, and what is remembered from one look to the next."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poorwill.control.machine import idleness
from poorwill.control.machine.idleness import GAP_S_MIN, Gpu, Limits, Observation, Verdict, Watch, judge, signs_of

NOW_S = 1_800_000_000.0
MINUTE_S, KIB = 60.0, 1024.0
QUIET = Observation("b", network_bytes=1e6, network_bytes_per_s=0.0, cpu_s=100.0, cpu_cores=0.0)
LIMITS = Limits()


def gpu(percent: float | None = 0.0, mib: float | None = 400.0, processes: int | None = 0) -> Gpu:
    return Gpu(percent, mib, processes)


@pytest.mark.parametrize(
    ("seen", "limits", "expected"),
    [
        (QUIET, LIMITS, ""),
        (replace(QUIET, gpus=(gpu(), gpu(5.0))), LIMITS, ""),
        (replace(QUIET, gpus=(gpu(), gpu(93.4))), LIMITS, "GPU 1 at 93%"),
        (replace(QUIET, gpus=(gpu(93.4),)), Limits(gpu_percent_max=95), ""),
        (replace(QUIET, gpus=(gpu(None),)), LIMITS, "GPU 0: its utilisation is not known"),
        (replace(QUIET, gpus=(gpu(processes=2),)), LIMITS, "1 GPU held by processes"),
        (replace(QUIET, gpus=(gpu(mib=20_000.0), gpu(processes=1))), LIMITS, "2 GPUs held by processes"),
        (replace(QUIET, gpus=(gpu(mib=20_000.0), gpu(processes=1))), Limits(gpus_held_max=2), ""),
        (replace(QUIET, logins=("root@pts/0",)), LIMITS, "1 login (root@pts/0)"),
        (replace(QUIET, logins=("a", "b", "c", "d")), LIMITS, "4 logins (a, b, c)"),
        (replace(QUIET, logins=("a", "b")), Limits(logins_max=2), ""),
        (replace(QUIET, terminals=(("pts/1", 599.0), ("pts/2", 600.0))), LIMITS, "terminal pts/1 used 9m59s ago"),
        (replace(QUIET, clients=((8888, 2),)), LIMITS, "2 clients of port 8888"),
        (replace(QUIET, clients=((8888, 2),)), Limits(clients_max=2), ""),
        (replace(QUIET, network_bytes_per_s=100 * KIB), LIMITS, ""),
        (replace(QUIET, network_bytes_per_s=5000 * KIB), LIMITS, "network at 5,000 KiB/s in the window"),
        (replace(QUIET, cpu_cores=0.51), LIMITS, "0.51 cores busy in the window"),
        (replace(QUIET, unknown=("GPU: no answer",)), Limits(gpu_percent_max=100), "GPU: no answer (not known)"),
    ],
)
def test_signs_of_use(seen: Observation, limits: Limits, expected: str) -> None:
    """Each threshold at its limit, and the sentence beyond it."""
    assert "; ".join(signs_of(seen, None, NOW_S, limits)) == expected


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({}, ""),
        ({"network_bytes": 1e6 + 1}, "restarted since the look 10m ago"),
        ({"cpu_s": 0.0}, ""),
        ({"cpu_s": 101.0}, "restarted since the look 10m ago"),
        ({"boot": "a"}, "restarted since the look 10m ago"),
        ({"network_bytes": None}, ""),
        ({"seen_s": NOW_S}, ""),
    ],
)
def test_the_time_between_two_looks(before: dict[str, Any], expected: str) -> None:
    """By the counters."""
    watch = replace(Watch("i", NOW_S - 600, NOW_S - 600, "b", 1e6, 100.0), **before)
    assert "; ".join(signs_of(QUIET, watch, NOW_S, LIMITS)) == expected


def test_bursts_between_two_looks() -> None:
    """A quiet window does not hide a download or a computation before it."""
    watch = Watch("i", NOW_S - 600, NOW_S - 600, "b", 1e6, 100.0)
    loud = replace(QUIET, network_bytes=1e6 + 600 * 200 * KIB, cpu_s=100.0 + 600 * 2)
    assert signs_of(loud, watch, NOW_S, LIMITS) == (
        "network at 200 KiB/s since the look 10m ago", "2.00 cores busy since the look 10m ago",
    )  # fmt: skip


def looks(*minutes: float, idle_after_s: float = 30 * MINUTE_S, seen: Observation = QUIET) -> list[Verdict]:
    """One after the other, each with what the one before left, through JSON."""
    found: list[Verdict] = []
    for minute in minutes:
        kept = Watch.read(json.loads(json.dumps(asdict(found[-1].watch)))) if found else None
        found.append(judge(kept, "i-1", seen, NOW_S + minute * MINUTE_S, idle_after_s, LIMITS))
    return found


def test_idle_for_long_enough() -> None:
    """Since the first quiet look; due once the policy's time is over, but never at the first look."""
    found = looks(0, 10, 20, 30, 40)
    assert [verdict.idle_s for verdict in found] == [0, 600, 1200, 1800, 2400]
    assert [verdict.due for verdict in found] == [False, False, False, True, True]
    assert found[0].why == "no GPU, 0 logins, network at 0 KiB/s, 0.00 cores busy"


def test_a_busy_look_starts_from_zero() -> None:
    """So does one that failed."""
    quiet = looks(0, 20)[-1].watch
    busy = judge(quiet, "i-1", replace(QUIET, cpu_cores=3.0), NOW_S + 1500, 1800, LIMITS)
    assert busy.active and busy.idle_s == 0 and busy.watch.idle_since_s is None
    for watch in (busy.watch, idleness.unreachable(quiet, "i-1", NOW_S + 1500)):
        after = judge(watch, "i-1", QUIET, NOW_S + 1900, 1800, LIMITS)
        assert not after.active and after.idle_s == 0 and not after.due


def test_new_and_unwatched_machines_start_from_zero() -> None:
    """Another instance, one that was not looked at for long, one from the future, and one whose hibernation failed."""
    kept = replace(looks(0, 20)[-1].watch, run="r", told=True)
    at_s = NOW_S + 40 * MINUTE_S
    assert judge(kept, "i-1", QUIET, at_s, 1800, LIMITS).due
    assert judge(kept, "i-1", QUIET, at_s, 1800, LIMITS).watch == replace(
        kept, seen_s=at_s, idle_since_s=kept.idle_since_s
    )
    for instance, later_s in (("i-2", at_s), ("i-1", kept.seen_s + GAP_S_MIN + 1), ("i-1", kept.seen_s - 1)):
        verdict = judge(kept, instance, QUIET, later_s, 1800, LIMITS)
        assert (verdict.idle_s, verdict.due, verdict.watch.told, verdict.watch.run) == (0, False, False, "")
    anew = judge(idleness.begun_anew(kept), "i-1", QUIET, at_s, 1800, LIMITS)
    assert (anew.idle_s, anew.watch.run, anew.watch.told) == (20 * MINUTE_S, "", False)
    assert judge(kept, "i-1", QUIET, kept.seen_s + 7200, 2 * 3600, LIMITS).due  # such a policy allows such a gap


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=8,
)
FIELDS = ["boot", "gpus", "logins", "terminals", "clients", "network_bytes", "network_bytes_per_s", "cpu_s",
          "cpu_cores", "unreadable"]  # fmt: skip
rows = st.lists(
    st.dictionaries(
        st.sampled_from(["who", "port", "count", "name", "idle_s", "processes", "memory_used_mib"]), junk, max_size=4
    ),
    max_size=3,
)


@given(told=st.dictionaries(st.sampled_from(FIELDS), junk | rows), kept=junk)
@settings(max_examples=100, deadline=None)
def test_any_report_of_a_machine_is_bounded(told: dict[str, Any], kept: Any) -> None:
    """It is typed, raises nothing, and without all figures the machine is not idle."""
    seen = Observation.read(told)
    for listed in (seen.gpus, seen.logins, seen.terminals, seen.clients, seen.unknown):
        assert len(listed) <= idleness.ROWS_MAX
    verdict = judge(Watch.read(kept), "i", seen, NOW_S, 60, LIMITS)
    assert len(verdict.why) < 3000 and verdict.why.isprintable()
    if not set(told) >= {*FIELDS} - {"boot", "unreadable"}:
        assert verdict.active
    assert Watch.read(json.loads(json.dumps(asdict(verdict.watch)))) == verdict.watch


def test_too_many_rows_count_as_activity() -> None:
    """Activity may be in the rows that were cut off."""
    seen = Observation.read({"logins": [{"who": "a\u202e\ud800\nb" * 500}] * 101})
    assert len(seen.logins) == 100 and len(seen.logins[0]) == idleness.TEXT_MAX and seen.logins[0].isascii()
    assert "logins: more than 100" in seen.unknown


def test_malformed_numbers_are_unknown() -> None:
    """Of any kind that a JSON parser accepts."""
    for value in (10**400, -1, float("nan"), float("inf"), True, "5", None):
        assert Observation.read({"cpu_s": value}).cpu_s is None


counts = st.integers(0, 3)


@given(
    percent=st.floats(0, 100), processes=counts, logins=counts, clients=counts, network=st.floats(0, 1e9),
    cores=st.floats(0, 64), gap_s=st.floats(0, 5000), idle_after_s=st.floats(0, 7200),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_due_only_after_witnessed_idleness(
    percent: float, processes: int, logins: int, clients: int, network: float, cores: float, gap_s: float,
    idle_after_s: float,
) -> None:  # fmt: skip
    """A machine is due only if this look, and looks for all of that time, were below its limits."""
    seen = replace(
        QUIET,
        gpus=(gpu(percent, processes=processes),),
        logins=("x",) * logins,
        clients=((1, clients),) * bool(clients),
        network_bytes_per_s=network,
        cpu_cores=cores,
    )
    first = judge(None, "i", QUIET, NOW_S, idle_after_s, LIMITS)
    verdict = judge(first.watch, "i", seen, NOW_S + gap_s, idle_after_s, LIMITS)
    if verdict.due:
        assert percent <= 5 and processes == logins == clients == 0 and network <= 100 * KIB and cores <= 0.5
        assert verdict.idle_s >= idle_after_s
        # A policy of 0 seconds is fulfilled by one look, however long ago the one before was.
        assert idle_after_s == 0 or gap_s <= max(GAP_S_MIN, idle_after_s)
    if not verdict.active:
        assert verdict.idle_s in (0, pytest.approx(gap_s, abs=1e-6))  # POSIX seconds as floats
