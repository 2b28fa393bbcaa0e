"""The rules of retention: what each keeps and why, and what holds for any policy and any snapshots."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.errors import UsageError
from poorwill.snapshot import ids, labels
from poorwill.snapshot.retention_policy import COUNT_MAX, COUNTS, NEWEST, Candidate, Policy, judge
from poorwill.snapshot.shrinkage import Extent

moments = st.datetimes(datetime(2023, 12, 20), datetime(2026, 1, 10))
snapshots = st.lists(
    st.builds(
        lambda at, number, machine, tags, committed, size, standing: Candidate(
            machine,
            (snapshot_id := f"{at:%Y%m%dT%H%M%SZ}-{number:08x}"),
            tags,
            committed,
            Extent(snapshot_id, "/w", size, size),
            standing,
        ),
        moments,
        st.integers(0, 50),
        st.sampled_from(["a", "b"]),
        st.sampled_from([(), ("x",), ("x", "y"), ("z",)]),
        st.none() | st.integers(1_700_000_000_000, 1_760_000_000_000),
        st.integers(0, 6),
        st.sampled_from(["proven", "unknown", "unknown", "failed"]),
    ),
    max_size=30,
    unique_by=lambda candidate: candidate.snapshot_id,
)
counts = {name: st.integers(0, 5) for name in COUNTS}
policies = st.builds(
    Policy,
    **counts,
    within_s=st.sampled_from([0, 3600, 86_400, 40 * 86_400]),
    tags=st.sampled_from([(), ("x",), ("q",)]),
).filter(lambda policy: policy != Policy())


def taken(*times: str, tags: tuple[str, ...] = ()) -> list[Candidate]:
    return [Candidate("m", f"{time}Z-0000000{number}", tags) for number, time in enumerate(times)]


def kept(policy: Policy, candidates: list[Candidate]) -> dict[str, tuple[str, ...]]:
    """Time of the id -> reasons, of what is kept."""
    return {owner[1][:15]: reasons for owner, reasons in judge(policy, candidates).items() if reasons}


def test_reasons() -> None:
    """Each rule gives its own, and several may hold for one snapshot."""
    times = ("20260101T000000", "20260101T230000", "20260102T100000", "20260102T103000", "20260105T000000")
    found = kept(Policy(last=1, daily=2, hourly=9, within_s=3 * 86_400), taken(*times))
    assert found == {
        "20260105T000000": ("last snapshot", "hourly snapshot", "daily snapshot", "within 3d"),
        "20260102T103000": ("hourly snapshot", "daily snapshot", "within 3d"),
        "20260102T100000": ("within 3d",),
        "20260101T230000": ("hourly snapshot",),
        "20260101T000000": ("hourly snapshot",),
    }


def test_periods_are_those_of_utc_and_iso() -> None:
    """29 December 2025 is in the first week of 2026; a year is that of the calendar."""
    times = ("20251228T235959", "20251229T000000", "20260104T235959", "20260105T000000")
    assert list(kept(Policy(weekly=2), taken(*times))) == ["20260105T000000", "20260104T235959"]
    assert list(kept(Policy(yearly=2), taken(*times))) == ["20260105T000000", "20251229T000000"]
    assert list(kept(Policy(monthly=2), taken(*times))) == ["20260105T000000", "20251229T000000"]


def test_the_oldest_is_kept_while_a_rule_has_room() -> None:
    """So that a history begins where it began; said in the reason."""
    found = kept(Policy(yearly=5), taken("20260101T000000", "20260301T000000", "20260501T000000"))
    assert found == {"20260501T000000": ("yearly snapshot",), "20260101T000000": ("oldest yearly snapshot",)}


def test_what_is_kept_whatever_the_policy_says() -> None:
    """The newest, what is protected, and an id whose time does not exist."""
    candidates = [*taken("20260101T000000", "20260102T000000"), Candidate("m", "20250231T250000Z-00000009")]
    found = judge(Policy(tags=("none",)), candidates, {candidates[0].snapshot_id: "machine m is asleep in it"})
    assert [found[each.owner] for each in candidates] == [
        ("machine m is asleep in it",),
        (NEWEST,),
        ("its id holds no time",),
    ]


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (Policy(), "no rule"),
        (Policy(last=-1), "keep last -1"),
        (Policy(weekly=COUNT_MAX + 1), "keep weekly"),
        (Policy(within_s=-5), "keep within"),
        (Policy(tags=("a b",)), "is not a tag"),
    ],
)
def test_a_policy_that_is_a_mistake(policy: Policy, says: str) -> None:
    """Refused, also where there is nothing to judge: one without a rule would remove everything."""
    with pytest.raises(UsageError, match=says):
        judge(policy, [])


@given(policies, snapshots)
def test_the_newest_of_each_machine_is_kept(policy: Policy, candidates: list[Candidate]) -> None:
    """And every snapshot is judged, by its own machine alone."""
    found = judge(policy, candidates)
    assert set(found) == {candidate.owner for candidate in candidates}
    for machine in {candidate.machine for candidate in candidates}:
        own = [candidate for candidate in candidates if candidate.machine == machine]
        assert found[max(own, key=lambda candidate: candidate.rank).owner]
        proven = [candidate for candidate in own if candidate.standing == "proven"]
        assert not proven or found[max(proven, key=lambda candidate: candidate.rank).owner]
        assert judge(policy, own).items() <= found.items()


@given(policies, snapshots, st.sampled_from([*COUNTS, "within_s"]), st.integers(1, 100_000))
def test_more_never_keeps_less(policy: Policy, candidates: list[Candidate], rule: str, more: int) -> None:
    """A greater number in any rule keeps all that a smaller one keeps; and so does one more tag."""
    least = {owner for owner, reasons in judge(policy, candidates).items() if reasons}
    for greater in (replace(policy, **{rule: getattr(policy, rule) + more}), replace(policy, tags=(*policy.tags, "z"))):
        assert least <= {owner for owner, reasons in judge(greater, candidates).items() if reasons}


@given(policies, snapshots, st.randoms(use_true_random=False))
def test_order_does_not_matter(policy: Policy, candidates: list[Candidate], random: object) -> None:
    """The same verdicts in the same order."""
    shuffled = [*candidates]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert list(judge(policy, shuffled).items()) == list(judge(policy, candidates).items())


@given(policies, snapshots)
def test_what_was_kept_is_kept_again(policy: Policy, candidates: list[Candidate]) -> None:
    """Once the others are gone nothing more goes."""
    found = judge(policy, candidates)
    left = [candidate for candidate in candidates if found[candidate.owner]]
    assert all(judge(policy, left).values())


@given(policies, snapshots, moments)
def test_protection_only_adds(policy: Policy, candidates: list[Candidate], at: datetime) -> None:
    """What is protected is kept, and nothing else changes."""
    protected = {each.snapshot_id: "why" for each in candidates if each.snapshot_id < f"{at:%Y%m%dT%H%M%SZ}"}
    plain, found = judge(policy, candidates), judge(policy, candidates, protected)
    for owner, reasons in found.items():
        assert reasons == plain[owner] + (("why",) if owner[1] in protected else ())


@given(policies, snapshots, st.integers(1, 5))
def test_as_many_verified_ones_are_kept(policy: Policy, candidates: list[Candidate], last: int) -> None:
    """Keeping the last so many keeps as many that were read back, if there are, whatever else came later."""
    found = judge(replace(policy, last=last), candidates)
    for machine in {candidate.machine for candidate in candidates}:
        proven = [each for each in candidates if each.machine == machine and each.standing == "proven"]
        newest = sorted(proven, key=lambda candidate: candidate.rank, reverse=True)[:last]
        assert all(found[each.owner] for each in newest)


def test_the_time_of_an_id() -> None:
    """Is the one it was made with, in UTC; None where there is none."""
    at = datetime(2026, 2, 28, 23, 59, 59, tzinfo=timezone(timedelta(hours=-5)))
    assert ids.begun_at(ids.new_snapshot_id(at)) == at
    assert ids.begun_at("20260230T000000Z-00000000") is None


def test_names_and_tags() -> None:
    """Printable and bounded; an empty name is none."""
    assert labels.checked_name("before the upgrade — ü") and labels.checked_name("") is None
    assert labels.checked_tags(["b", "a", "b"]) == ("a", "b")
    for name in (" x", "a\nb", "x" * (labels.NAME_CHARS_MAX + 1), "\x1b[2J", "a\u202eb", "\udc80"):
        with pytest.raises(UsageError, match="cannot name"):
            labels.checked_name(name)
    for tags in ([""], ["a,b"], ["a b"], ["a\t"], ["x" * 65], [str(number) for number in range(33)]):
        with pytest.raises(UsageError, match="tag"):
            labels.checked_tags(tags)
