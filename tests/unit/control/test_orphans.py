"""No orphan, whatever is cut off where: wakes, crashes, lost answers, lost blocks, sleeps and reaps, in any order.

The steps are those of the flows `wake`, `hibernate` and `reap`, with Prefect's blocks and slots replaced by a
dictionary and by doing one thing at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poorwill.control.machine import provisioning, reaping
from poorwill.control.machine.provisioning import Clock, Noted
from poorwill.control.machine.reaping import Evidence, Finding, Named, Rule
from poorwill.control.records import intents
from poorwill.errors import PoorwillError, ProviderUnavailable, Refused
from poorwill.providers.base import Wish
from poorwill.store.local import LocalStore
from tests.support.doubles.clock import SleepingClock
from tests.support.doubles.rented_machines import RentedMachines
from tests.support.hooked_store import hooked

pytestmark = pytest.mark.long

SNAPSHOTS = ("20260102T030405Z-0000abcd", "20260102T030405Z-0000beef")
MACHINE = "m"
GRACE_S = 7200.0
CRASHES = st.none() | st.integers(1, 14)


class Crash(BaseException):
    """SIGKILL."""


@dataclass(frozen=True, slots=True)
class Block:
    """What the machine's block says."""

    instance: str
    status: str
    snapshot_id: str


class Orphans(RuleBasedStateMachine):
    """`working` are the instances that somebody was told of and that nobody put to sleep or destroyed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.time = SleepingClock()
        self.clock = Clock(self.time.now, self.time.sleep)
        self.provider = RentedMachines(self.time.now, moment=self.moment)
        moments: dict[str, Callable[[str, int], None]] = dict.fromkeys(("put", "delete"), lambda key, n: self.moment())
        self.store = hooked(LocalStore(self.folder.name), before=moments, after=moments)
        self.block: Block | None = None
        self.working: set[str] = set()
        self.moments_left: int | None = None

    def teardown(self) -> None:
        """In the end everything is quiet: what is left bills for somebody, and a wake works or says for whom."""
        self.provider.locked, self.provider.answers_lost, self.provider.creations_failing = set(), 0, 0
        self.time.sleep(2 * GRACE_S)
        self._reap()
        assert set(self.provider.billing()) == self.working
        try:
            self._wake(SNAPSHOTS[0])
        except Refused as refused:
            assert any(instance in refused.message for instance in self.working), refused.message
        assert len(self.provider.billing()) == 1
        self.folder.cleanup()

    def moment(self) -> None:
        """Something is about to change, or has changed: the process may end here."""
        if self.moments_left is not None:
            self.moments_left -= 1
            if self.moments_left == 0:
                raise Crash

    def run(self, crash: int | None, step: Callable[[], Any]) -> None:
        self.moments_left = crash
        try:
            step()
        except (PoorwillError, Crash):
            pass
        finally:
            self.moments_left = None

    def save(self, block: Block) -> None:
        self.moment()
        self.block = block
        self.moment()

    @rule(
        snapshot_id=st.sampled_from(SNAPSHOTS), crash=CRASHES, lost=st.integers(0, 2), failing=st.integers(0, 3),
        listed_after_s=st.sampled_from((0.0, 5.0, 55.0)), broken=st.booleans(),
    )  # fmt: skip
    def wake(
        self, snapshot_id: str, crash: int | None, lost: int, failing: int, listed_after_s: float, broken: bool
    ) -> None:
        """It may be cut off anywhere, its restore may fail, and the provider may answer as it likes."""
        self.provider.answers_lost, self.provider.creations_failing = lost, failing
        self.provider.listed_after_s = listed_after_s
        self.run(crash, lambda: self._wake(snapshot_id, broken))

    def _wake(self, snapshot_id: str, broken: bool = False) -> None:
        label = ""
        try:
            noted = Noted(self.block.instance, self.block.status, self.provider) if self.block else None
            begun = provisioning.begin(self.store, self.provider, MACHINE, snapshot_id, noted=noted, clock=self.clock)
            label = begun.intent.label
            instance, intent, _ = provisioning.provision(self.store, self.provider, begun, Wish(), 10, self.clock)
            self.save(Block(instance.id, "awake" if intent.woken else "waking", snapshot_id))
            if broken:
                raise ProviderUnavailable("the restore failed")
            self._mark_woken(instance.id, label)
            self.save(Block(instance.id, "awake", snapshot_id))
        except PoorwillError:
            if label:
                provisioning.discard(self.store, self.provider, label, self.clock)
            if self.block and self.block.status == "waking" and not self.provider.exists(self.block.instance):
                self.save(replace(self.block, instance="", status="asleep"))
            raise

    def _mark_woken(self, instance: str, label: str) -> None:
        try:
            provisioning.mark_woken(self.store, label)
        finally:
            found = intents.read(self.store, label)
            if found is not None and found.woken:  # also when it was cut off right after
                self.working.add(instance)

    @precondition(lambda self: self.block is not None and self.block.status == "awake" and self.block.instance)
    @rule(crash=CRASHES)
    def hibernate(self, crash: int | None) -> None:
        """After its snapshot was verified, the machine goes; it may be cut off anywhere."""
        assert self.block is not None
        block = self.block
        self.run(crash, lambda: self._hibernate(block))
        self.working &= set(self.provider.billing())

    def _hibernate(self, block: Block) -> None:
        self.provider.destroy(block.instance, 10)
        self.save(Block("", "asleep", block.snapshot_id))
        intents.close_of_instance(self.store, MACHINE, self.provider.describe(), block.instance)

    @precondition(lambda self: self.block is not None)
    @rule()
    def lose_the_block(self) -> None:
        self.block = None

    @precondition(lambda self: self.provider.billing())
    @rule(which=st.integers(0, 9))
    def destroy_by_hand(self, which: int) -> None:
        instance = self.provider.billing()[which % len(self.provider.billing())]
        self.working.discard(instance)
        self.provider.machines.pop(instance)

    @rule(hours=st.sampled_from((0.01, 1.0, 3.0)))
    def wait(self, hours: float) -> None:
        self.time.sleep(hours * 3600)

    @rule(crash=CRASHES, locked=st.booleans())
    def reap(self, crash: int | None, locked: bool) -> None:
        """It destroys what it may; it may be cut off, and machines may refuse to go."""
        self.provider.locked = set(self.provider.billing()) if locked else set()
        self.run(crash, self._reap)
        self.provider.locked = set()

    def _reap(self) -> None:
        for finding in self.survey():
            if finding.state in ("orphan", "gone"):
                reaping.reap_one(self.provider, [self.store], finding, self.evidence(), self.age_rule())
                if self.block and self.block.instance == finding.instance and self.block.status == "waking":
                    self.save(replace(self.block, instance="", status="asleep"))

    def evidence(self) -> Evidence:
        named = (Named(MACHINE, self.block.instance, self.block.status),) if self.block and self.block.instance else ()
        return replace(reaping.read_evidence([self.store]), named=named)

    def age_rule(self) -> Rule:
        return Rule(self.time.now(), GRACE_S)

    def survey(self) -> list[Finding]:
        return reaping.survey(self.provider, self.evidence(), self.age_rule())

    @invariant()
    def no_work_is_lost(self) -> None:
        """Whoever was told of a machine still has it."""
        assert self.working <= set(self.provider.billing())

    @invariant()
    def one_machine_at_a_time(self) -> None:
        """A name has one machine, so a label has."""
        assert len(self.provider.billing()) <= 1

    @invariant()
    def every_machine_is_accounted_for(self) -> None:
        """What is listed is reported once, as awake exactly where somebody works, and never as somebody else's."""
        listed = {instance.id for instance in self.provider.list_by_prefix("poorwill-")}
        findings = [finding for finding in self.survey() if finding.state != "gone"]
        reported = [finding.instance for finding in findings]
        assert listed <= set(reported) and len(reported) == len(set(reported))
        for finding in findings:
            assert finding.state != "foreign"
            assert finding.state.startswith("awake") == (finding.instance in self.working), finding


TestOrphans = Orphans.TestCase
TestOrphans.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
