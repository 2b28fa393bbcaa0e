"""Which snapshots a policy keeps, and why. Pure: the answer depends on the snapshots alone, not on any clock.

The rules are those of restic's `forget` (https://restic.readthedocs.io/en/stable/060_forget.html), for each machine by
itself. A snapshot's time is that of its id: when it was begun, in UTC. Newer is what was committed later, by the
store's clock, which differs where one waited for its machine and another one did not.

Each rule is applied twice: to all snapshots but those whose verification failed, and to the verified ones alone. So one
that nobody has read back never takes the place of one that is proved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from poorwill.errors import UsageError
from poorwill.snapshot import durations, ids, labels, shrinkage
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.shrinkage import Extent

COUNT_MAX = 1_000_000
NEWEST, PROVEN = "newest of its machine", "newest verified snapshot of its machine"
Standing = Literal["proven", "unknown", "failed"]
"""Whether a verification proved that a snapshot can be woken, failed, or neither."""
_Period = Callable[[datetime], tuple[int, ...]]
_PERIODS: tuple[tuple[str, _Period], ...] = (
    ("hourly", lambda at: (at.year, at.month, at.day, at.hour)),
    ("daily", lambda at: (at.year, at.month, at.day)),
    ("weekly", lambda at: tuple(at.isocalendar())[:2]),
    ("monthly", lambda at: (at.year, at.month)),
    ("yearly", lambda at: (at.year,)),
)
COUNTS = ("last", *(name for name, _ in _PERIODS))


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep; a snapshot that any rule keeps is kept. 0 and empty: no such rule.

    last: the newest so many. hourly .. yearly: the newest snapshot of each of the newest so many hours, days, ISO
    weeks, months, years that have one; while a rule has not found as many, it keeps the oldest snapshot too. within_s:
    what is at most so much older than the machine's newest snapshot. tags: what has one of them.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within_s: int = 0
    tags: tuple[str, ...] = ()

    def check(self) -> Policy:
        """Itself, or UsageError; also for a policy without any rule, which would keep nothing: that is a mistake."""
        labels.checked_tags(self.tags)
        for name in COUNTS:
            if not 0 <= getattr(self, name) <= COUNT_MAX:
                raise UsageError(f"keep {name} {getattr(self, name)}: expected 0 to {COUNT_MAX}")
        if not 0 <= self.within_s <= durations.SECONDS_MAX:
            raise UsageError(f"keep within {self.within_s} s: expected 0 to {durations.SECONDS_MAX}")
        if self == Policy():
            raise UsageError(
                "this policy has no rule and would keep nothing: give one, such as keep last 7 or keep within 30d; "
                "to remove single snapshots, delete them"
            )
        return self


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot to be judged."""

    machine: str
    snapshot_id: str
    tags: tuple[str, ...] = ()
    committed_at_ms: int | None = None
    extent: Extent | None = None
    standing: Standing = "unknown"

    @property
    def owner(self) -> Owner:
        return self.machine, self.snapshot_id

    @property
    def rank(self) -> tuple[int, str]:
        """What the snapshots of a machine are sorted by, oldest first."""
        return ids.ranked_ms(self.snapshot_id, self.committed_at_ms), self.snapshot_id


def judge(
    policy: Policy, snapshots: Iterable[Candidate], protected: Mapping[str, str] | None = None
) -> dict[Owner, tuple[str, ...]]:
    """Why each snapshot is kept; no reason for those that go. Newest first, machine by machine. UsageError.

    protected: snapshot id -> the reason why it must be kept, whatever the policy says. The order of `snapshots` does
    not matter. Always kept are the newest snapshot of a machine, the newest that is verified, one that has no time, and
    the last one before the workspace shrank (see shrinkage.py).
    """
    policy.check()
    machines: defaultdict[str, list[Candidate]] = defaultdict(list)
    for candidate in snapshots:
        machines[candidate.machine].append(candidate)
    verdicts: dict[Owner, tuple[str, ...]] = {}
    for machine in sorted(machines):
        newest_first = sorted(machines[machine], key=lambda each: each.rank, reverse=True)
        reasons = _of_machine(policy, newest_first)
        for candidate in newest_first:
            why = protected.get(candidate.snapshot_id) if protected else None
            found = reasons[candidate.snapshot_id] + ([why] if why else [])
            verdicts[candidate.owner] = tuple(found)
    return verdicts


def _of_machine(policy: Policy, newest_first: list[Candidate]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {each.snapshot_id: [] for each in newest_first}
    proven = [each for each in newest_first if each.standing == "proven"]
    ranks = ([each for each in newest_first if each.standing != "failed"], ""), (proven, " of those verified")
    for among, suffix in ranks:
        for snapshot_id, reason in _by_rules(policy, among):
            if reason not in reasons[snapshot_id]:
                reasons[snapshot_id].append(reason + suffix)
        extents = [each.extent for each in reversed(among) if each.extent is not None]
        for snapshot_id, reason in shrinkage.kept_for_a_fall(extents).items():
            if reason not in reasons[snapshot_id]:
                reasons[snapshot_id].append(reason)
    for each in newest_first:
        reasons[each.snapshot_id] += [f"tag {tag}" for tag in each.tags if tag in policy.tags]
        if ids.begun_at(each.snapshot_id) is None:
            reasons[each.snapshot_id].append("its id holds no time")
    for candidate, reason in ((newest_first[0], NEWEST), *((each, PROVEN) for each in proven[:1])):
        if not reasons[candidate.snapshot_id]:
            reasons[candidate.snapshot_id].append(reason)
    return reasons


def _by_rules(policy: Policy, newest_first: list[Candidate]) -> Iterable[tuple[str, str]]:
    """(id, reason) of what the policy keeps if these are all there is."""
    timed = [(each, at) for each in newest_first if (at := ids.begun_at(each.snapshot_id)) is not None]
    timed.sort(key=lambda found: found[0].snapshot_id, reverse=True)
    for each in newest_first[: policy.last]:
        yield each.snapshot_id, "last snapshot"
    for name, period in _PERIODS:
        yield from _newest_of_each(getattr(policy, name), name, period, timed)
    for each, at in timed:
        if policy.within_s and timed[0][1] - at <= timedelta(seconds=policy.within_s):
            yield each.snapshot_id, f"within {durations.as_text(policy.within_s)}"


def _newest_of_each(
    count: int, name: str, period: _Period, timed: list[tuple[Candidate, datetime]]
) -> Iterable[tuple[str, str]]:
    """(id, reason) of what a rule of periods keeps."""
    last: tuple[int, ...] | None = None
    for number, (each, at) in enumerate(timed):
        if count == 0:
            return
        found = period(at)
        oldest = number == len(timed) - 1
        if found != last or oldest:
            yield each.snapshot_id, f"{'oldest ' if found == last else ''}{name} snapshot"
            count -= 1
        last = found
