"""Intents: no machine bills unknown, and only one that nobody was told of is discarded."""

from __future__ import annotations

from pathlib import Path

import pytest

from poorwill.control import provisioning
from poorwill.errors import Corrupt, NotFound, PermanentError, Refused
from poorwill.providers.base import Instance, Wish
from poorwill.providers.local import LocalProvider
from poorwill.snapshot import keys
from poorwill.store.local import LocalStore

SNAPSHOT_ID = "20260102T030405Z-0000abcd"


@pytest.fixture
def provider(tmp_path: Path) -> LocalProvider:
    return LocalProvider(tmp_path / "machines")


class DyingProvider(LocalProvider):
    """Creates a machine and dies before it can say so."""

    def create(self, label: str, wish: Wish) -> Instance:
        super().create(label, wish)
        raise KeyboardInterrupt


class StubbornProvider(LocalProvider):
    """Does not let go of its machines."""

    def destroy(self, instance_id: str, timeout_s: float) -> None:
        raise PermanentError(f"{instance_id} is locked")


def test_the_intent_is_written_before_the_machine(local_store: LocalStore, tmp_path: Path) -> None:
    """Cut off inside create, the intent is in the store, and the next try adopts the machine by its label."""
    dying, root = DyingProvider(tmp_path / "machines"), tmp_path / "machines"
    intent = provisioning.open_intent(local_store, dying, "m", SNAPSHOT_ID)
    with pytest.raises(KeyboardInterrupt):
        provisioning.provision(local_store, dying, intent, Wish(), 10)
    assert provisioning.open_intents(local_store, "m") == [intent]

    again = provisioning.open_intent(local_store, dying, "m", SNAPSHOT_ID)
    assert again == intent
    instance, noted, adopted = provisioning.provision(local_store, dying, again, Wish(), 10)
    assert adopted and noted.instance == instance.id and len(list(root.iterdir())) == 1


def test_two_wakes_do_not_share_a_label(local_store: LocalStore, provider: LocalProvider) -> None:
    """Once an intent is closed the same wake gets a new label: a machine in use is never adopted."""
    first = provisioning.open_intent(local_store, provider, "m", SNAPSHOT_ID)
    used, first, _ = provisioning.provision(local_store, provider, first, Wish(), 10)
    provisioning.close_intent(local_store, first.label)
    second = provisioning.open_intent(local_store, provider, "m", SNAPSHOT_ID)
    created, _, adopted = provisioning.provision(local_store, provider, second, Wish(), 10)
    assert second.label != first.label and created.id != used.id and not adopted


def test_a_machine_that_is_awake_is_not_discarded(local_store: LocalStore, provider: LocalProvider) -> None:
    """After mark_woken it may hold somebody's work: discard says that it bills, and leaves it."""
    intent = provisioning.open_intent(local_store, provider, "m", SNAPSHOT_ID)
    instance, intent, _ = provisioning.provision(local_store, provider, intent, Wish(), 10)
    provisioning.mark_woken(local_store, intent)
    assert "goes on billing" in provisioning.discard(local_store, provider, intent.label)
    assert provider.exists(instance.id)


def test_a_woken_machine_that_vanished_is_not_taken_for_woken(local_store: LocalStore, provider: LocalProvider) -> None:
    """The new machine in its place is empty: it has to be restored onto."""
    intent = provisioning.open_intent(local_store, provider, "m", SNAPSHOT_ID)
    instance, intent, _ = provisioning.provision(local_store, provider, intent, Wish(), 10)
    intent = provisioning.mark_woken(local_store, intent)
    provider.destroy(instance.id, 10)
    _, intent, adopted = provisioning.provision(local_store, provider, intent, Wish(), 10)
    assert not adopted and not intent.woken


def test_discarding(local_store: LocalStore, provider: LocalProvider) -> None:
    """The machine goes, then the intent; what cannot be destroyed is named, and its intent stays."""
    intent = provisioning.open_intent(local_store, provider, "m", SNAPSHOT_ID)
    instance, intent, _ = provisioning.provision(local_store, provider, intent, Wish(), 10)
    said = provisioning.discard(local_store, StubbornProvider(provider.root), intent.label)
    assert "may still be billing" in said and instance.id in said
    assert provisioning.open_intents(local_store, "m") == [intent]
    assert "destroyed again" in provisioning.discard(local_store, provider, intent.label)
    assert not provider.exists(instance.id) and provisioning.open_intents(local_store, "m") == []
    assert provisioning.discard(local_store, provider, intent.label) == ""


def test_two_machines_of_one_label_are_named(local_store: LocalStore, provider: LocalProvider) -> None:
    """Whichever is adopted, the other would bill unseen: refused."""
    intent = provisioning.open_intent(local_store, provider, "m", SNAPSHOT_ID)
    twins = [provider.create(intent.label, Wish()).id for _ in range(2)]
    with pytest.raises(Refused, match=f"{min(twins)}, {max(twins)}"):
        provisioning.provision(local_store, provider, intent, Wish(), 10)


def test_an_intent_at_another_provider_is_not_overlooked(
    local_store: LocalStore, provider: LocalProvider, tmp_path: Path
) -> None:
    """It cannot be asked from here whether its machine exists: refused, naming label and record."""
    intent = provisioning.open_intent(local_store, provider, "m", SNAPSHOT_ID)
    with pytest.raises(Refused, match=intent.label):
        provisioning.open_intent(local_store, LocalProvider(tmp_path / "others"), "m", SNAPSHOT_ID)
    assert provisioning.open_intent(local_store, LocalProvider(tmp_path / "others"), "n", SNAPSHOT_ID).machine == "n"


def test_a_damaged_intent_stops_everything(local_store: LocalStore, provider: LocalProvider) -> None:
    """It may be the only trace of a machine that bills: Corrupt, and not silently a new one."""
    intent = provisioning.open_intent(local_store, provider, "m", SNAPSHOT_ID)
    data = local_store.get(keys.intent(intent.label)).replace(b'"m"', b'"n"')
    local_store.put(keys.intent(intent.label), data)
    with pytest.raises(Corrupt, match=intent.label):
        provisioning.open_intent(local_store, provider, "m", SNAPSHOT_ID)


def test_an_impossible_wish_leaves_an_intent_without_a_machine(
    local_store: LocalStore, provider: LocalProvider
) -> None:
    """Nothing was created; the open intent does no harm, and the next wake of another snapshot closes it."""
    intent = provisioning.open_intent(local_store, provider, "m", SNAPSHOT_ID)
    with pytest.raises(Refused):
        provisioning.provision(local_store, provider, intent, Wish(gpu="H200"), 10)
    other = provisioning.open_intent(local_store, provider, "m", "20260102T030405Z-0000beef")
    assert provisioning.open_intents(local_store, "m") == [other]
    with pytest.raises(NotFound):
        local_store.get(keys.intent(intent.label))
