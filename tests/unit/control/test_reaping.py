"""Reaping: which machines are orphans, and that nothing else is destroyed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from poorwill.control.machine import provisioning, reaping
from poorwill.control.machine.provisioning import Clock
from poorwill.control.machine.reaping import Evidence, Finding, Named, Rule
from poorwill.control.records import intents
from poorwill.control.records.intents import Intent
from poorwill.errors import PermanentError, ProviderUnavailable, Refused
from poorwill.providers.base import Instance, Wish
from poorwill.snapshot import keys
from poorwill.store.local import LocalStore
from tests.support.doubles.clock import SleepingClock
from tests.support.doubles.rented_machines import PRICE, RentedMachines

SNAPSHOT_ID = "20260102T030405Z-0000abcd"
GRACE_S = 7200.0


class Desk:
    """A store, a provider, and time that passes at will."""

    def __init__(self, store: LocalStore) -> None:
        self.time = SleepingClock()
        self.clock = Clock(self.time.now, self.time.sleep)
        self.store, self.provider = store, RentedMachines(self.time.now)

    def created(self, machine: str = "m") -> Intent:
        """The intent of a machine that was created and not woken."""
        begun = provisioning.begin(self.store, self.provider, machine, SNAPSHOT_ID, clock=self.clock)
        return provisioning.provision(self.store, self.provider, begun, Wish(), 10, self.clock)[1]

    def woken(self, machine: str = "m") -> Intent:
        intent = self.created(machine)
        provisioning.mark_woken(self.store, intent.label)
        return intent

    def rule(self) -> Rule:
        return Rule(self.time.now(), GRACE_S)

    def evidence(self, *named: Named, held: frozenset[str] = frozenset()) -> Evidence:
        return replace(reaping.read_evidence([self.store]), named=named, held=held)

    def survey(self, *named: Named, held: frozenset[str] = frozenset()) -> list[Finding]:
        return reaping.survey(self.provider, self.evidence(*named, held=held), self.rule())

    def states(self, *named: Named, held: frozenset[str] = frozenset()) -> dict[str, str]:
        return {finding.instance: finding.state for finding in self.survey(*named, held=held)}

    def reap(self, finding: Finding, *named: Named) -> None:
        reaping.reap_one(self.provider, [self.store], finding, self.evidence(*named), self.rule())


@pytest.fixture
def desk(local_store: LocalStore) -> Desk:
    return Desk(local_store)


class TestStates:
    """The state of one machine, by the evidence."""

    def test_a_machine_of_a_running_wake(self, desk: Desk) -> None:
        """Waking while it is young; later an orphan, unless a run works on it."""
        instance = desk.created().instance
        assert desk.states() == {instance: "waking"}
        desk.time.sleep(GRACE_S)
        assert desk.states() == {instance: "orphan"}
        assert desk.states(held=frozenset({"m"})) == {instance: "waking"}

    def test_a_woken_machine_is_awake(self, desk: Desk) -> None:
        """However old; without a block too, and then the note says what to do."""
        instance = desk.woken().instance
        desk.time.sleep(1e8)
        assert desk.states(Named("m", instance, "awake")) == {instance: "awake"}
        (found,) = desk.survey()
        assert found.state == "awake, no block" and f"instance={instance}" in found.note and "name=m" in found.note

    @pytest.mark.parametrize(("status", "state"), [("awake", "awake"), ("asleep", "awake"), ("waking", "orphan")])
    def test_a_machine_of_an_unfinished_wake_that_a_block_names(self, desk: Desk, status: str, state: str) -> None:
        """A block with the status "waking" is the wake's own and no reason to keep it; any other is an operator's."""
        instance = desk.created().instance
        desk.time.sleep(GRACE_S)
        assert desk.states(Named("m", instance, status)) == {instance: state}

    def test_a_machine_without_a_record(self, desk: Desk) -> None:
        """With our label: young, then an orphan; any block that names it keeps it."""
        instance = desk.provider.create(intents.new_label(desk.store, "m"), Wish()).id
        assert desk.states() == {instance: "young"}
        desk.time.sleep(GRACE_S)
        assert desk.states() == {instance: "orphan"} and desk.states(held=frozenset({"m"})) == {instance: "waking"}
        for status in ("awake", "asleep", "waking"):
            assert desk.states(Named("m", instance, status)) == {instance: "awake"}

    def test_a_machine_of_somebody_else_is_foreign(self, desk: Desk, tmp_path: Path) -> None:
        """With another store's tag, or none, however old; without our prefix it is not listed."""
        labels = [intents.new_label(LocalStore(tmp_path / "theirs"), "m"), "poorwill-m-0123456789ab", "poorwill-"]
        theirs = {desk.provider.create(label, Wish()).id: "foreign" for label in labels}
        desk.provider.create("somebody", Wish())
        desk.time.sleep(1e8)
        assert desk.states() == theirs
        for finding in desk.survey():
            with pytest.raises(Refused, match="only orphans"):
                desk.reap(finding)
        assert len(desk.provider.billing()) == 4

    def test_a_machine_of_unknown_age_is_young(self, desk: Desk) -> None:
        """And never destroyed; with a record, the record's age counts."""
        label = intents.new_label(desk.store, "m")
        found = reaping.classify(Instance("i", label, True, "yesterday", 1.0), desk.evidence(), Rule(1e9, 0.0))
        assert (found.state, found.age_s, found.note) == ("young", None, "its age is not known")
        intent = desk.created()
        desk.time.sleep(GRACE_S)
        seen = Instance(intent.instance, intent.label, True, "", 1.0)
        assert reaping.classify(seen, desk.evidence(), desk.rule()).state == "orphan"

    def test_a_machine_that_exists_but_is_not_listed(self, desk: Desk) -> None:
        """The provider says that it exists: it is reported like others."""
        woken, created = desk.woken("a"), desk.created("b")
        desk.provider.listed_after_s = 1e9
        desk.provider.machines = {key: (instance, 1e9) for key, (instance, _) in desk.provider.machines.items()}
        desk.time.sleep(GRACE_S)
        assert desk.states() == {woken.instance: "awake, no block", created.instance: "orphan"}
        orphan = next(finding for finding in desk.survey() if finding.state == "orphan")
        desk.reap(orphan)
        assert desk.provider.billing() == [woken.instance]

    def test_what_they_cost(self, desk: Desk) -> None:
        """Price and age are those of the machine."""
        desk.created()
        desk.time.sleep(600)
        (found,) = desk.survey()
        assert found.price_per_hour == PRICE and found.age_s == 600 and found.machine == "m"


class TestDestroying:
    """Only orphans are destroyed, after everything was read again."""

    def test_an_orphan_goes_with_its_record(self, desk: Desk) -> None:
        """Repeating the call succeeds. Others stay."""
        orphan, stays = desk.created("a"), desk.woken("b")
        desk.time.sleep(GRACE_S)
        (finding,) = (each for each in desk.survey() if each.state == "orphan")
        for _ in range(2):
            desk.reap(finding)
            assert desk.provider.billing() == [stays.instance]
            assert [each.label for each in intents.every(desk.store)] == [stays.label]
        assert finding.instance == orphan.instance

    def test_a_machine_that_is_not_an_orphan_any_more_stays(self, desk: Desk) -> None:
        """It was woken, or named by a block, since the survey: refused."""
        intent = desk.created()
        desk.time.sleep(GRACE_S)
        (finding,) = desk.survey()
        with pytest.raises(Refused, match="is awake now"):
            desk.reap(finding, Named("m", intent.instance, "awake"))
        provisioning.mark_woken(desk.store, intent.label)
        with pytest.raises(Refused, match="is awake, no block now"):
            desk.reap(finding)
        assert desk.provider.billing() == [intent.instance] and len(list(intents.every(desk.store))) == 1

    def test_nothing_is_destroyed_while_something_cannot_be_read(self, desk: Desk, tmp_path: Path) -> None:
        """A damaged record in any store: its store is named, its machines are foreign, and nothing is destroyed."""
        desk.created()
        desk.time.sleep(GRACE_S)
        (finding,) = desk.survey()
        desk.store.put(keys.intent("poorwill-x"), b"{}")
        evidence = desk.evidence()
        assert evidence.tags == frozenset() and "poorwill-x" in evidence.unreadable[0]
        with pytest.raises(Refused, match="cannot be read"):
            desk.reap(finding)
        assert len(desk.provider.billing()) == 1

    @pytest.mark.parametrize("fault", ["locked", "down", "stays"])
    def test_a_machine_that_cannot_be_destroyed_is_named(self, desk: Desk, fault: str) -> None:
        """The error keeps its type and names what bills; the record stays."""
        intent = desk.created()
        desk.time.sleep(GRACE_S)
        (finding,) = desk.survey()
        evidence, rule, provider = desk.evidence(), desk.rule(), desk.provider
        if fault == "stays":
            provider = Clinging(desk.time.now, machines=provider.machines)
        provider.locked, provider.down = {intent.instance} if fault == "locked" else set(), fault == "down"
        with pytest.raises((PermanentError, ProviderUnavailable), match=f"{intent.instance}.*still be billing"):
            reaping.reap_one(provider, [desk.store], finding, evidence, rule)
        assert len(list(intents.every(desk.store))) == 1

    def test_two_machines_with_one_label(self, desk: Desk) -> None:
        """Not woken: both are orphans, and the record is removed with the second."""
        intent = desk.created()
        desk.provider.create(intent.label, Wish())
        desk.time.sleep(GRACE_S)
        first, second = desk.survey()
        desk.reap(first)
        assert len(list(intents.every(desk.store))) == 1
        desk.reap(second)
        assert desk.provider.billing() == [] and list(intents.every(desk.store)) == []

    def test_two_machines_with_the_label_of_a_woken_one_stay(self, desk: Desk) -> None:
        """It is unknown which of them holds the work: neither is destroyed."""
        intent = desk.woken()
        desk.provider.create(intent.label, Wish())
        desk.time.sleep(1e8)
        assert set(desk.states().values()) == {"awake, no block"}


class TestRecordsWithoutMachines:
    """They bill nothing, and are removed when asked."""

    def test_the_record_of_a_woken_machine_that_was_destroyed_by_hand(self, desk: Desk) -> None:
        """Reported as gone at once, and closed, so that the machine can be woken elsewhere."""
        intent = desk.woken()
        desk.provider.destroy(intent.instance, 10)
        (finding,) = desk.survey()
        assert (finding.state, finding.price_per_hour) == ("gone", 0.0)
        desk.reap(finding)
        assert list(intents.every(desk.store)) == [] and desk.survey() == []

    def test_the_record_of_a_machine_that_may_still_be_created(self, desk: Desk) -> None:
        """Not reported while it is young or a run works on it; closed afterwards, unless the machine exists."""
        intent = provisioning.begin(desk.store, desk.provider, "m", SNAPSHOT_ID, clock=desk.clock).intent
        assert desk.survey() == []
        desk.time.sleep(GRACE_S)
        assert desk.survey(held=frozenset({"m"})) == []
        (finding,) = desk.survey()
        assert finding.state == "gone"
        desk.provider.create(intent.label, Wish())
        desk.reap(finding)
        assert [each.label for each in intents.every(desk.store)] == [intent.label]
        assert set(desk.states().values()) == {"waking"}

    def test_records_of_another_provider_are_left_alone(self, desk: Desk) -> None:
        """Only their own provider is asked."""
        intent = desk.woken()
        desk.provider.destroy(intent.instance, 10)
        assert reaping.survey(replace(desk.provider, name="another"), desk.evidence(), desk.rule()) == []


class Clinging(RentedMachines):
    """Reports that it destroyed a machine, and still has it."""

    def destroy(self, instance_id: str, timeout_s: float) -> None:
        return
