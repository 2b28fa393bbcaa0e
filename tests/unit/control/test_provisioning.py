"""Intents: no machine bills unnoticed, one wake has one machine, and only an unknown one is discarded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from poorwill.control.machine import provisioning
from poorwill.control.machine.provisioning import Begun, Clock, Noted
from poorwill.control.records import intents
from poorwill.control.records.intents import Intent
from poorwill.errors import Corrupt, NotFound, ProviderUnavailable, Refused, UsageError
from poorwill.providers.base import Instance, Wish
from poorwill.providers.local import LocalProvider
from poorwill.snapshot import documents, keys
from poorwill.store.local import LocalStore
from tests.support.doubles.clock import SleepingClock
from tests.support.doubles.rented_machines import PRICE, RentedMachines

SNAPSHOT_ID = "20260102T030405Z-0000abcd"
OTHER_ID = "20260102T030405Z-0000beef"


class Desk:
    """A store, a provider, and a clock that only sleeping moves."""

    def __init__(self, store: LocalStore) -> None:
        self.time = SleepingClock()
        self.clock = Clock(self.time.now, self.time.sleep)
        self.store, self.provider = store, RentedMachines(self.time.now)

    def begin(self, snapshot_id: str = SNAPSHOT_ID, machine: str = "m", noted: Noted | None = None) -> Begun:
        return provisioning.begin(self.store, self.provider, machine, snapshot_id, noted=noted, clock=self.clock)

    def provision(self, begun: Begun, wish: Wish | None = None) -> tuple[Instance, Intent, bool]:
        return provisioning.provision(self.store, self.provider, begun, wish or Wish(), 10, self.clock)

    def woken(self) -> Intent:
        """The intent of machine m, awake."""
        _, intent, _ = self.provision(self.begin())
        provisioning.mark_woken(self.store, intent.label)
        return intent

    def discard(self, label: str) -> str:
        return provisioning.discard(self.store, self.provider, label, self.clock)

    def open(self) -> list[Intent]:
        return intents.of_machine(self.store, "m")


@pytest.fixture
def desk(local_store: LocalStore) -> Desk:
    return Desk(local_store)


class Killed(BaseException):
    """The process ends here."""


def dies() -> None:
    raise Killed


class TestCreating:
    """One wake, one machine, however the provider answers."""

    def test_a_wake_killed_inside_create_is_adopted(self, desk: Desk) -> None:
        """The intent was written before; the next attempt adopts the machine by its label."""
        begun = desk.begin()
        moments = iter([lambda: None, dies])
        desk.provider.moment = lambda: next(moments)()
        with pytest.raises(Killed):
            desk.provision(begun)
        assert desk.open() == [begun.intent]

        desk.provider.moment = lambda: None
        again = desk.begin()
        assert again == Begun(begun.intent, fresh=False)
        instance, noted, adopted = desk.provision(again)
        assert adopted and noted.instance == instance.id and desk.provider.billing() == [instance.id]

    @pytest.mark.parametrize("listed_after_s", [0.0, 12.0, 50.0])
    def test_a_machine_whose_creation_was_not_answered_is_adopted(self, desk: Desk, listed_after_s: float) -> None:
        """It is looked for until it is listed; no second one is created."""
        desk.provider.answers_lost, desk.provider.listed_after_s = 1, listed_after_s
        instance, intent, _ = desk.provision(desk.begin())
        assert desk.provider.billing() == [instance.id] == [intent.instance] and desk.provider.created == [instance.id]

    def test_it_is_created_again_if_nothing_was_created(self, desk: Desk) -> None:
        """After looking for a minute, with the same label."""
        desk.provider.creations_failing = 1
        begun = desk.begin()
        instance, intent, adopted = desk.provision(begun)
        assert desk.provider.billing() == [instance.id] and not adopted and intent.label == begun.intent.label
        assert sum(desk.time.slept) == sum(provisioning.LOOKS_S)

    def test_creations_are_bounded(self, desk: Desk) -> None:
        """A provider that keeps failing is asked a few times; the next call looks before it creates."""
        desk.provider.creations_failing = provisioning.CREATIONS_MAX
        with pytest.raises(ProviderUnavailable):
            desk.provision(desk.begin())
        assert desk.provider.billing() == [] and len(desk.open()) == 1
        looked = len(desk.time.slept)
        desk.provision(desk.begin())
        assert len(desk.provider.billing()) == 1 and len(desk.time.slept) > looked

    def test_a_machine_that_is_not_listed_yet_is_waited_for(self, desk: Desk) -> None:
        """If the wake begins again soon; a year later the first look decides."""
        desk.provider.listed_after_s = 40.0
        begun = desk.begin()
        desk.provider.create(begun.intent.label, Wish())  # killed before it was noted
        instance, _, adopted = desk.provision(desk.begin())
        assert adopted and desk.provider.billing() == [instance.id]

        desk.provider.machines.clear()
        desk.time.sleep(3e7)
        looked = len(desk.time.slept)
        assert desk.provision(desk.begin())[0].id != instance.id and len(desk.time.slept) == looked

    def test_two_machines_of_one_label_are_refused(self, desk: Desk) -> None:
        """Naming both: one of them would bill unnoticed."""
        label = desk.begin().intent.label
        twins = sorted(desk.provider.create(label, Wish()).id for _ in range(2))
        with pytest.raises(Refused, match=f"bill: {twins[0]}, {twins[1]}"):
            desk.provision(desk.begin())

    def test_an_impossible_wish_leaves_no_record(self, desk: Desk) -> None:
        """The provider refused: nothing was created."""
        begun = desk.begin()
        with pytest.raises(Refused):
            desk.provision(begun, Wish(gpu="none"))
        assert desk.open() == [] and desk.discard(begun.intent.label) == "" and desk.time.slept == []

    def test_the_record_says_who_what_when_and_for_how_much(self, desk: Desk) -> None:
        """Enough to judge a machine without Prefect's database."""
        begun = provisioning.begin(
            desk.store, desk.provider, "m", SNAPSHOT_ID, wish=Wish(gpu="H200", price_per_hour_max=2.75),
            flow_run="run-1", clock=desk.clock,
        )  # fmt: skip
        instance, _, _ = desk.provision(begun)
        (found,) = desk.open()
        assert found.wish == {"gpu": "H200", "price_per_hour_max": "2.75"} and found.flow_run == "run-1"
        assert (found.instance, found.price, found.woken) == (instance.id, PRICE, False)
        assert found.created_at == "1970-01-01T00:00:00Z" and found.provider == "rented machines"


class TestAwake:
    """A woken intent shows that somebody works on the machine; it is kept as long as the machine."""

    def test_a_woken_machine_is_not_discarded(self, desk: Desk) -> None:
        """discard says that it bills, and leaves it."""
        intent = desk.woken()
        assert "goes on billing" in desk.discard(intent.label) and desk.provider.exists(intent.instance)

    @pytest.mark.parametrize("snapshot_id", [SNAPSHOT_ID, OTHER_ID])
    @pytest.mark.parametrize("status", ["awake", "asleep", "waking elsewhere", ""])
    def test_waking_it_again_is_refused(self, desk: Desk, snapshot_id: str, status: str) -> None:
        """Whatever its block says, and without a block: the first machine is named."""
        intent = desk.woken()
        instance = intent.instance if status == "awake" else "i-9" if status == "waking elsewhere" else ""
        noted = Noted(instance, status.split()[0], desk.provider) if status else None
        with pytest.raises(Refused, match=f"m is awake already as {intent.instance}"):
            desk.begin(snapshot_id, noted=noted)
        assert desk.provider.billing() == [intent.instance] and len(desk.open()) == 1

    def test_a_wake_whose_bookkeeping_was_interrupted_is_completed(self, desk: Desk) -> None:
        """Its block still says waking: the machine is adopted, and not restored again."""
        label, instance = desk.woken().label, desk.provider.billing()[0]
        noted = Noted(instance, "waking", desk.provider)
        found, intent, adopted = desk.provision(desk.begin(noted=noted))
        assert adopted and intent.woken and (found.id, intent.label) == (instance, label)
        with pytest.raises(Refused, match="wake that one again"):
            desk.begin(OTHER_ID, noted=noted)

    def test_the_record_of_a_machine_that_is_gone_is_closed(self, desk: Desk) -> None:
        """It was destroyed by hand; the machine in its place is a new, empty one."""
        first = desk.woken()
        desk.provider.destroy(first.instance, 10)
        for noted in (None, Noted(first.instance, "waking", desk.provider)):
            _, second, adopted = desk.provision(desk.begin(noted=noted))
            assert not second.woken and second.label != first.label and adopted == (noted is not None)
        assert [intent.label for intent in desk.open()] == [second.label]

    def test_a_machine_that_replaces_a_vanished_one_is_not_woken(self, desk: Desk) -> None:
        """It is empty."""
        intent = desk.woken()
        begun = desk.begin(noted=Noted(intent.instance, "waking", desk.provider))
        desk.provider.destroy(intent.instance, 10)
        _, replaced, adopted = desk.provision(begun)
        assert not adopted and not replaced.woken

    def test_the_record_goes_with_its_machine(self, desk: Desk) -> None:
        """Only that of this instance, of this provider."""
        intent = desk.woken()
        for provider, instance in (("another", intent.instance), ("rented machines", "i-9")):
            intents.close_of_instance(desk.store, "m", provider, instance)
        assert len(desk.open()) == 1
        for _ in range(2):
            intents.close_of_instance(desk.store, "m", "rented machines", intent.instance)
            assert desk.open() == []

    def test_a_record_that_was_removed_by_hand(self, desk: Desk) -> None:
        """While the machine was woken: it is an error, as the machine would be unprotected."""
        intent = desk.woken()
        intents.close(desk.store, intent.label)
        with pytest.raises(Refused, match="goes on billing"):
            provisioning.mark_woken(desk.store, intent.label)

    def test_a_block_of_another_store(self, desk: Desk) -> None:
        """The block names a machine without a record in this store: refused, with what to do."""
        stray = desk.provider.create("by-hand", Wish()).id
        for status, words in (("awake", "hibernate it first"), ("waking", "the store that it was begun with")):
            with pytest.raises(Refused, match=words):
                desk.begin(noted=Noted(stray, status, desk.provider))
        assert desk.open() == []


class TestDiscarding:
    """The machine of a failed wake is destroyed, or named."""

    def test_a_discarded_machine_goes_before_its_record(self, desk: Desk) -> None:
        """A machine that cannot be destroyed is named, and its record stays."""
        _, intent, _ = desk.provision(desk.begin())
        desk.provider.locked = {intent.instance}
        said = desk.discard(intent.label)
        assert "may still be billing" in said and intent.instance in said and desk.open() == [intent]
        desk.provider.locked = set()
        assert "destroyed again" in desk.discard(intent.label)
        assert desk.provider.billing() == [] and desk.open() == [] and desk.discard(intent.label) == ""

    def test_a_provider_that_is_down(self, desk: Desk) -> None:
        """discard does not raise: it says what may bill."""
        _, intent, _ = desk.provision(desk.begin())
        desk.provider.down = True
        assert intent.label in (said := desk.discard(intent.label)) and "may still be billing" in said
        assert len(desk.open()) == 1

    def test_two_machines_with_one_label(self, desk: Desk) -> None:
        """One is destroyed, the other, which cannot be, is named."""
        label = desk.begin().intent.label
        stays, goes = (desk.provider.create(label, Wish()).id for _ in range(2))
        desk.provider.locked = {stays}
        said = desk.discard(label)
        assert stays in said and goes not in said and desk.provider.billing() == [stays] and len(desk.open()) == 1

    def test_a_machine_that_is_not_listed_yet(self, desk: Desk) -> None:
        """It is waited for and destroyed; if it is never listed, its record stays for the next wake and for reap."""
        desk.provider.listed_after_s = 20.0
        label = desk.begin().intent.label
        desk.provider.create(label, Wish())
        assert "destroyed again" in desk.discard(label) and desk.provider.billing() == []
        label = desk.begin().intent.label
        assert "is not known" in desk.discard(label) and len(desk.open()) == 1


class TestOtherIntents:
    """Intents of earlier wakes of the same machine."""

    def test_an_intent_for_another_snapshot(self, desk: Desk) -> None:
        """Closed if no machine is found for long enough; refused, naming label and snapshot, if there is one."""
        first = desk.begin().intent
        second = desk.begin(OTHER_ID).intent
        assert desk.open() == [second] and sum(desk.time.slept) == sum(provisioning.LOOKS_S)
        desk.provision(desk.begin(OTHER_ID))
        with pytest.raises(Refused, match=second.label) as refused:
            desk.begin()
        assert OTHER_ID in refused.value.message and first.label != second.label

    def test_an_intent_at_another_provider(self, desk: Desk, tmp_path: Path) -> None:
        """Refused, as its machine cannot be looked for; intents of another machine are ignored."""
        intent = desk.begin().intent
        other = LocalProvider(tmp_path / "machines")
        with pytest.raises(Refused, match=intent.label):
            provisioning.begin(desk.store, other, "m", SNAPSHOT_ID, clock=desk.clock)
        begun = provisioning.begin(desk.store, other, "n", SNAPSHOT_ID, clock=desk.clock)
        assert begun.intent.machine == "n"

    def test_an_intent_at_another_provider_that_the_block_knows(self, desk: Desk, tmp_path: Path) -> None:
        """That provider is asked: if the machine is gone, it may be woken at a new provider."""
        intent = desk.woken()
        other = LocalProvider(tmp_path / "machines")
        noted = Noted(intent.instance, "awake", desk.provider)
        with pytest.raises(Refused, match="awake already"):
            provisioning.begin(desk.store, other, "m", SNAPSHOT_ID, noted=noted, clock=desk.clock)
        desk.provider.destroy(intent.instance, 10)
        begun = provisioning.begin(desk.store, other, "m", SNAPSHOT_ID, noted=noted, clock=desk.clock)
        assert [each.label for each in desk.open()] == [begun.intent.label]

    def test_several_open_intents_are_refused(self, desk: Desk) -> None:
        """Two of one wake, left by a lost slot: both are named."""
        first = desk.begin().intent
        second = Intent(
            f"{first.label[:-1]}{'0' if first.label[-1] != '0' else '1'}", "m", SNAPSHOT_ID, first.provider,
            first.created_at, "", False,
        )  # fmt: skip
        intents.write(desk.store, second)
        with pytest.raises(Refused, match="several wakes"):
            desk.begin()


class TestRecords:
    """Labels and documents."""

    def test_a_label_names_its_store(self, desk: Desk, tmp_path: Path) -> None:
        """Each store has its own tag; the parts of a label can be read back."""
        other = LocalStore(tmp_path / "other")
        label = intents.new_label(desk.store, "a-b.c")
        assert intents.parsed_label(label) == (intents.store_tag(desk.store), "a-b.c")
        assert (
            intents.store_tag(other)
            != intents.store_tag(desk.store)
            == intents.store_tag(LocalStore(tmp_path / "local-store"))
        )
        assert len(intents.new_label(desk.store, "m" * 63)) <= 200
        for wrong in ("poorwill-m-0123456789ab", "poorwill-zzzzzzzz-m-0123456789ab", "other", "", f"{label}0"):
            assert intents.parsed_label(wrong) is None
        with pytest.raises(UsageError):
            intents.new_label(desk.store, "m" * 64)

    def test_a_damaged_record_is_corrupt(self, desk: Desk) -> None:
        """It may be the only trace of a machine that bills: no new one is written in its place."""
        key = keys.intent(desk.begin().intent.label)
        desk.store.put(key, desk.store.get(key).replace(b'"m"', b'"n"'))
        with pytest.raises(Corrupt, match=key):
            desk.begin()

    @pytest.mark.parametrize(
        "change",
        [
            *({"machine": 7}, {"woken": "yes"}, {"label": "poorwill-other"}, {"wish": []}, {"snapshot_id": None}),
            *({"price_per_hour": text} for text in ("much", "nan", "-1", "inf")),
        ],
        ids=str,
    )
    def test_a_record_with_wrong_fields_is_corrupt(self, desk: Desk, change: dict[str, object]) -> None:
        """Sealed, but with fields of other types; the error names the object."""
        key = keys.intent(desk.begin().intent.label)
        body = json.loads(desk.store.get(key))
        desk.store.put(key, documents.seal({**body, **change}))
        with pytest.raises(Corrupt, match=key):
            desk.begin()

    def test_a_record_of_an_earlier_version_is_read(self, desk: Desk) -> None:
        """Without tag, wish, run and price: its machine is adopted."""
        label = "poorwill-m-0123456789ab"
        instance = desk.provider.create(label, Wish())
        old = {"label": label, "machine": "m", "snapshot_id": SNAPSHOT_ID, "provider": "rented machines"}
        old |= {"created_at": "1970-01-01T00:00:00Z", "instance": instance.id}
        desk.store.put(keys.intent(label), documents.seal({"format": "poorwill-intent/1", **old, "woken": False}))
        found, intent, adopted = desk.provision(desk.begin())
        assert adopted and found.id == instance.id and intent.price == PRICE

    def test_other_objects_below_intents_are_ignored(self, desk: Desk) -> None:
        """So is a record that is closed meanwhile."""
        desk.store.put("intents/notes-m-0123456789ab.txt", b"mine")
        assert desk.begin().fresh and len(list(intents.every(desk.store))) == 1
        with pytest.raises(NotFound):
            desk.store.get(keys.intent("poorwill-none"))
        assert intents.read(desk.store, "poorwill-none") is None


def test_the_disk_that_is_asked_for() -> None:
    """A fifth more than the data, and the image; whole GB, rounded up."""
    assert provisioning.disk_gb_for(100 * 10**9) == 130
    assert provisioning.disk_gb_for(1) == 11 and provisioning.disk_gb_for(0, image_gb=0) == 0
