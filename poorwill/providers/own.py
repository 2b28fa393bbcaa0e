"""Machines that are always there: a workstation, a server of one's own, a machine rented by hand.

Poorwill creates and destroys none of them, and leaves none billing. Any name is an instance.
"""

from __future__ import annotations

from poorwill.errors import Refused
from poorwill.providers.base import Endpoint, Instance, Offer, Wish

_NEVER = "create it by hand and name its SSH address in a machine block"


class OwnMachines:
    """The provider of machines that an operator looks after. Every instance exists, runs, and costs nothing here."""

    def describe(self) -> str:
        return "own machines"

    def offers(self, wish: Wish) -> list[Offer]:
        wish.check()
        return []

    def create(self, label: str, wish: Wish) -> Instance:
        wish.check()
        raise Refused(f"a machine of one's own cannot be created: {_NEVER}")

    def get(self, instance_id: str) -> Instance:
        return Instance(instance_id, "", True, "", 0.0)

    def list_by_label(self, label: str) -> list[Instance]:
        return []

    def list_by_prefix(self, prefix: str) -> list[Instance]:
        return []

    def wait(self, instance_id: str, timeout_s: float) -> Instance:
        return self.get(instance_id)

    def endpoint(self, instance_id: str) -> Endpoint:
        raise Refused(f"where {instance_id} is reached is not known: give ssh_host in its machine block")

    def exists(self, instance_id: str) -> bool:
        return bool(instance_id)

    def destroy(self, instance_id: str, timeout_s: float) -> None:
        raise Refused(f"{instance_id} is a machine of one's own and cannot be destroyed: use destroy=False")
