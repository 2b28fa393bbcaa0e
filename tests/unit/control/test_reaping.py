"""Reaping: what is an orphan, what is not, and that nothing else is destroyed."""

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
    """One machine, and what speaks for it."""

    def test_of_a_wake_in_its_course(self, desk: Desk) -> None:
        """Waking while it is young; later an orphan, unless a run works on it."""
        instance = desk.created().instance
        assert desk.states() == {instance: "waking"}
        desk.time.sleep(GRACE_S)
        assert desk.states() == {instance: "orphan"}
        assert desk.states(held=frozenset({"m"})) == {instance: "waking"}

    def test_of_a_woken_machine(self, desk: Desk) -> None:
        """Awake for ever; without a block too, and then it says what to do."""
        instance = desk.woken().instance
        desk.time.sleep(1e8)
        assert desk.states(Named("m", instance, "awake")) == {instance: "awake"}
        (found,) = desk.survey()
        assert found.state == "awake, no block" and f"instance={instance}" in found.note and "name=m" in found.note

    @pytest.mark.parametrize(("status", "state"), [("awake", "awake"), ("asleep", "awake"), ("waking", "orphan")])
    def test_of_an_unfinished_wake_that_a_block_names(self, desk: Desk, status: str, state: str) -> None:
        """A block that says "waking" is the wake's own note, and speaks for nobody; any other one is an operator's."""
        instance = desk.created().instance
        desk.time.sleep(GRACE_S)
        assert desk.states(Named("m", instance, status)) == {instance: state}

    def test_without_a_record(self, desk: Desk) -> None:
        """Ours by its label, and nothing speaks for it: young, then an orphan; any block that names it keeps it."""
        instance = desk.provider.create(intents.new_label(desk.store, "m"), Wish()).id
        assert desk.states() == {instance: "young"}
        desk.time.sleep(GRACE_S)
        assert desk.states() == {instance: "orphan"} and desk.states(held=frozenset({"m"})) == {instance: "waking"}
        for status in ("awake", "asleep", "waking"):
            assert desk.states(Named("m", instance, status)) == {instance: "awake"}

    def test_of_somebody_else(self, desk: Desk, tmp_path: Path) -> None:
        """Another store's tag, or none: foreign, however old; without our prefix it is not even listed."""
        labels = [intents.new_label(LocalStore(tmp_path / "theirs"), "m"), "poorwill-m-0123456789ab", "poorwill-"]
        theirs = {desk.provider.create(label, Wish()).id: "foreign" for label in labels}
        desk.provider.create("somebody", Wish())
        desk.time.sleep(1e8)
        assert desk.states() == theirs
        for finding in desk.survey():
            with pytest.raises(Refused, match="only orphans"):
                desk.reap(finding)
        assert len(desk.provider.billing()) == 4

    def test_of_one_whose_age_nobody_knows(self, desk: Desk) -> None:
        """A provider that does not tell: young, and never destroyed; with a record, its age counts."""
        label = intents.new_label(desk.store, "m")
        found = reaping.classify(Instance("i", label, True, "yesterday", 1.0), desk.evidence(), Rule(1e9, 0.0))
        assert (found.state, found.age_s, found.note) == ("young", None, "its age is not known")
        intent = desk.created()
        desk.time.sleep(GRACE_S)
        seen = Instance(intent.instance, intent.label, True, "", 1.0)
        assert reaping.classify(seen, desk.evidence(), desk.rule()).state == "orphan"

    def test_that_is_not_listed_but_exists(self, desk: Desk) -> None:
        """What its record names still bills as far as the provider says: it is reported, and told apart as others."""
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
    """Only orphans, after everything was read again."""

    def test_an_orphan_and_its_record(self, desk: Desk) -> None:
        """It goes, its record goes, and a repeated call finds it done. Others stay."""
        orphan, stays = desk.created("a"), desk.woken("b")
        desk.time.sleep(GRACE_S)
        (finding,) = (each for each in desk.survey() if each.state == "orphan")
        for _ in range(2):
            desk.reap(finding)
            assert desk.provider.billing() == [stays.instance]
            assert [each.label for each in intents.every(desk.store)] == [stays.label]
        assert finding.instance == orphan.instance

    def test_one_that_is_no_orphan_any_more(self, desk: Desk) -> None:
        """Woken, or named by a block, since it was looked at: refused."""
        intent = desk.created()
        desk.time.sleep(GRACE_S)
        (finding,) = desk.survey()
        with pytest.raises(Refused, match="is awake now"):
            desk.reap(finding, Named("m", intent.instance, "awake"))
        provisioning.mark_woken(desk.store, intent.label)
        with pytest.raises(Refused, match="is awake, no block now"):
            desk.reap(finding)
        assert desk.provider.billing() == [intent.instance] and len(list(intents.every(desk.store))) == 1

    def test_nothing_while_something_cannot_be_read(self, desk: Desk, tmp_path: Path) -> None:
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
    def test_one_that_cannot_be_destroyed(self, desk: Desk, fault: str) -> None:
        """Named as billing, with the error's own type, and its record stays."""
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

    def test_twins(self, desk: Desk) -> None:
        """Two of one label, not woken: both are orphans, and the record goes with the second."""
        intent = desk.created()
        desk.provider.create(intent.label, Wish())
        desk.time.sleep(GRACE_S)
        first, second = desk.survey()
        desk.reap(first)
        assert len(list(intents.every(desk.store))) == 1
        desk.reap(second)
        assert desk.provider.billing() == [] and list(intents.every(desk.store)) == []

    def test_the_twin_of_a_woken_machine(self, desk: Desk) -> None:
        """Which of them holds the work is not for a program to guess: neither is destroyed."""
        intent = desk.woken()
        desk.provider.create(intent.label, Wish())
        desk.time.sleep(1e8)
        assert set(desk.states().values()) == {"awake, no block"}


class TestRecordsWithoutMachines:
    """They bill nothing, and are removed when asked."""

    def test_of_a_woken_machine_that_was_destroyed_by_hand(self, desk: Desk) -> None:
        """Reported as gone at once, and closed: it stood in the way of waking the machine elsewhere."""
        intent = desk.woken()
        desk.provider.destroy(intent.instance, 10)
        (finding,) = desk.survey()
        assert (finding.state, finding.price_per_hour) == ("gone", 0.0)
        desk.reap(finding)
        assert list(intents.every(desk.store)) == [] and desk.survey() == []

    def test_of_a_machine_that_may_be_created_yet(self, desk: Desk) -> None:
        """Not reported while young or while a run works on it; closed afterwards, unless the machine has come."""
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

    def test_of_another_provider(self, desk: Desk) -> None:
        """They are not this provider's to judge."""
        intent = desk.woken()
        desk.provider.destroy(intent.instance, 10)
        assert reaping.survey(replace(desk.provider, name="another"), desk.evidence(), desk.rule()) == []


class Clinging(RentedMachines):
    """Says that it destroyed a machine, and has it still."""

    def destroy(self, instance_id: str, timeout_s: float) -> None:
        return
