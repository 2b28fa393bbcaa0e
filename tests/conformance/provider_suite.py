"""What every provider of machines does. Tests of a provider define a fixture `provider`, as in test_providers.py."""

from __future__ import annotations

import pytest

from poorwill.errors import NotFound, Refused, UsageError
from poorwill.providers.base import OFFERS_MAX, Provider, Wish

TIMEOUT_S = 30.0


class ProviderSuite:
    """Each test gets a provider that has no machines of its labels."""

    def test_a_created_machine_runs_and_is_found_by_its_label(self, provider: Provider) -> None:
        """create, wait, get and list_by_label return the same machine, which exists."""
        created = provider.create("suite-a", Wish())
        running = provider.wait(created.id, TIMEOUT_S)
        assert running.running and running.id == created.id and running.label == "suite-a"
        assert provider.get(created.id).created_at == created.created_at
        assert [found.id for found in provider.list_by_label("suite-a")] == [created.id]
        assert provider.exists(created.id)

    def test_labels_match_exactly_and_need_not_be_unique(self, provider: Provider) -> None:
        """A prefix of a label finds nothing; two machines with one label are both found."""
        ids = {provider.create("suite-b", Wish()).id, provider.create("suite-b", Wish()).id}
        assert len(ids) == 2
        assert {found.id for found in provider.list_by_label("suite-b")} == ids
        assert provider.list_by_label("suite-") == []
        assert {found.id for found in provider.list_by_prefix("suite-")} >= ids
        assert provider.list_by_prefix("suite-none") == []

    def test_what_is_offered_can_be_created_at_its_price(self, provider: Provider) -> None:
        """The first offer is the cheapest, listing offers creates nothing, and a machine has its offer's price."""
        offers = provider.offers(Wish())
        assert 0 < len(offers) <= OFFERS_MAX
        assert [offer.price_per_hour for offer in offers] == sorted(offer.price_per_hour for offer in offers)
        assert provider.list_by_prefix("suite-") == []
        created = provider.create("suite-e", Wish())
        assert created.price_per_hour == pytest.approx(offers[0].price_per_hour)

    def test_a_wish_that_cannot_be_fulfilled_is_refused(self, provider: Provider) -> None:
        """There are no offers, and creating leaves nothing behind."""
        wish = Wish(gpu="GPU-OF-NO-ONE", gpu_count=1)
        assert provider.offers(wish) == []
        with pytest.raises(Refused):
            provider.create("suite-f", wish)
        assert provider.list_by_label("suite-f") == []

    def test_a_wish_for_cuda_gets_such_a_gpu_or_nothing(self, provider: Provider) -> None:
        """Each offer has an NVIDIA GPU as new as was wished for, as far as the provider tells; a provider that has
        none refuses before it creates, and so does every provider for a GPU that is not made yet."""
        wish = Wish(gpu_count=1, cuda_min=12.0, compute_capability_min=7.0)
        offers = provider.offers(wish)
        for offer in offers:
            assert offer.gpu and offer.gpu_count >= 1
            assert offer.cuda_max is None or offer.cuda_max >= 12.0
            assert offer.compute_capability is None or offer.compute_capability >= 7.0
        if offers:
            assert provider.create("suite-g", wish).price_per_hour == pytest.approx(offers[0].price_per_hour)
        for refused in ([] if offers else [wish]) + [Wish(gpu_count=1, compute_capability_min=999.0)]:
            assert provider.offers(refused) == []
            with pytest.raises(Refused):
                provider.create("suite-h", refused)
        assert provider.list_by_label("suite-h") == []

    def test_destroy_is_confirmed_idempotent_and_touches_no_other(self, provider: Provider) -> None:
        """Every call says that the machine is gone, destroying it again succeeds, others stay."""
        gone, stays = provider.create("suite-c", Wish()), provider.create("suite-c", Wish())
        for _ in range(2):
            provider.destroy(gone.id, TIMEOUT_S)
            assert not provider.exists(gone.id)
        with pytest.raises(NotFound):
            provider.get(gone.id)
        assert [found.id for found in provider.list_by_label("suite-c")] == [stays.id]

    def test_what_never_existed_is_not_found_and_may_be_destroyed(self, provider: Provider) -> None:
        """An unknown id is NotFound and does not exist; destroying it succeeds."""
        for unknown in ("local-000000000000", "../../etc", ""):
            assert not provider.exists(unknown)
            provider.destroy(unknown, TIMEOUT_S)
            for ask in (provider.get, provider.endpoint, lambda i: provider.wait(i, TIMEOUT_S)):
                with pytest.raises(NotFound):
                    ask(unknown)

    def test_a_label_that_could_break_a_key_is_refused(self, provider: Provider) -> None:
        """Labels become names of objects and of machines: slashes and empty ones are a UsageError."""
        for label in ("", "a/b", "../x", "a b", "x" * 201):
            with pytest.raises(UsageError):
                provider.create(label, Wish())

    def test_impossible_wishes_are_refused_before_anything_is_created(self, provider: Provider) -> None:
        """Impossible numbers are a UsageError, and no machine is left behind."""
        for wish in (Wish(disk_gb=0), Wish(gpu_count=-1), Wish(price_per_hour_max=0.0), Wish(cuda_min=-1.0)):
            with pytest.raises(UsageError):
                provider.create("suite-d", wish)
        assert provider.list_by_label("suite-d") == []
