"""A provider whose machines are entries in memory, with the faults of real ones: what bills can be counted exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from poorwill import timestamps
from poorwill.errors import NotFound, PermanentError, ProviderUnavailable, Refused
from poorwill.providers.base import Endpoint, Instance, Offer, Wish, checked_label

PRICE = 2.5
GPU = "H200"


@dataclass
class RentedMachines:
    """`now_s` is its clock. The faults are switched by their fields, while it works.

    listed_after_s: a new machine is listed, and found by its id, only so much later.
    answers_lost: so many creations succeed and answer with an error.
    creations_failing: so many create nothing and answer with an error.
    locked: instances that cannot be destroyed. down: everything is answered with an error.
    moment: called before and after everything that changes machines.
    """

    now_s: Callable[[], float]
    name: str = "rented machines"
    listed_after_s: float = 0.0
    answers_lost: int = 0
    creations_failing: int = 0
    locked: set[str] = field(default_factory=set)
    down: bool = False
    moment: Callable[[], None] = lambda: None
    machines: dict[str, tuple[Instance, float]] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def billing(self) -> list[str]:
        """The ids of all machines there are, whatever is listed."""
        return sorted(self.machines)

    def describe(self) -> str:
        return self.name

    def offers(self, wish: Wish) -> list[Offer]:
        self._answer()
        if wish.gpu not in (None, GPU):
            return []
        return [Offer("offer", GPU, 1, 16, 128.0, 500.0, "here", PRICE, 900.0, 0.99)]

    def create(self, label: str, wish: Wish) -> Instance:
        checked_label(label)
        self._answer()
        if not self.offers(wish.check()):
            raise Refused(f"{self.name} has no {wish.gpu}")
        if self.creations_failing:
            self.creations_failing -= 1
            raise ProviderUnavailable(f"{self.name} did not answer")
        self.moment()
        instance = Instance(f"i-{next(self._numbers)}", label, True, timestamps.text_of(self.now_s()), PRICE)
        self.machines[instance.id] = (instance, self.now_s() + self.listed_after_s)
        self.created.append(instance.id)
        self.moment()
        if self.answers_lost:
            self.answers_lost -= 1
            raise ProviderUnavailable(f"{self.name} did not answer")
        return instance

    def get(self, instance_id: str) -> Instance:
        self._answer()
        for instance in self._listed():
            if instance.id == instance_id:
                return instance
        raise NotFound(f"{self.name} has no instance {instance_id}")

    def list_by_label(self, label: str) -> list[Instance]:
        return [instance for instance in self.list_by_prefix(label) if instance.label == label]

    def list_by_prefix(self, prefix: str) -> list[Instance]:
        self._answer()
        return [instance for instance in self._listed() if instance.label.startswith(prefix)]

    def wait(self, instance_id: str, timeout_s: float) -> Instance:
        self._answer()
        if instance_id not in self.machines:
            raise NotFound(f"{self.name} has no instance {instance_id}")
        return self.machines[instance_id][0]

    def endpoint(self, instance_id: str) -> Endpoint:
        raise NotFound("nothing runs on these machines")

    def exists(self, instance_id: str) -> bool:
        self._answer()
        return instance_id in self.machines

    def destroy(self, instance_id: str, timeout_s: float) -> None:
        self._answer()
        if instance_id in self.locked:
            raise PermanentError(f"{instance_id} is locked")
        self.moment()
        self.machines.pop(instance_id, None)
        self.moment()

    def _listed(self) -> list[Instance]:
        return [instance for instance, listed_s in self.machines.values() if listed_s <= self.now_s()]

    def _answer(self) -> None:
        if self.down:
            raise ProviderUnavailable(f"{self.name} does not answer")
