"""The block of one machine: which instance it is now, or which snapshot it sleeps in."""

from __future__ import annotations

from math import isnan
from typing import ClassVar, Literal

from pydantic import Field

from blocks.access import SshAccess
from blocks.providers import AnyProvider, LocalProvider
from poorwill.providers.base import Endpoint, Provider, SshEndpoint
from poorwill.remote.identity import Identity


class Machine(SshAccess):
    """One machine through all its sleeps: it keeps its name, while its instances come and go.

    The flows keep it up to date: `wake` sets the instance, `hibernate` clears it once it is gone, and the first
    connection records the instance's host key.
    """

    _block_type_name = "Poorwill machine"
    _block_type_slug = "poorwill-machine"

    KEPT: ClassVar = ("instance", "status", "snapshot", "name", "ssh_host", "host_key")
    """What the flows write, beside the provider."""

    provider: AnyProvider = Field(description="Where its instances come from.", union_mode="left_to_right")
    instance: str = Field(default="", description="The provider's id of the instance it is now; empty while it sleeps.")
    status: Literal["awake", "asleep", "waking"] = Field(
        default="awake", description="What the flows last did with it."
    )
    snapshot: str = Field(default="", description="The snapshot it was last put to sleep in, or woken from.")
    name: str = Field(
        default="", description="The name its snapshots are kept under in stores. Empty: the name of this block."
    )
    ssh_host: str = Field(default="", description="Where its SSH server is. Empty: the provider is asked.")
    ssh_port: int = Field(default=22, ge=1, le=65535, description="Only together with ssh_host.")
    ssh_user: str = Field(default="", description="Whom to log in as. Empty: what the provider says, else root.")
    host_key: str = Field(
        default="",
        description="The machine's public host key, like 'ssh-ed25519 AAAA...'. Empty: recorded at first contact.",
    )
    # Not checked here: a block that cannot be loaded could not be woken either.
    idle_after: str = Field(
        default="",
        description="How long it may be idle until autosleep puts it to sleep, like '30m' or '2h'. "
        "Empty: as long as autosleep is told. 'never': autosleep leaves it alone.",
    )

    def endpoint(self, provider: Provider) -> Endpoint:
        """Where this instance is reached. NotFound if it is gone, Refused if its address is unknown."""
        if self.ssh_host:
            return SshEndpoint(self.ssh_host, self.ssh_port, self.ssh_user)
        found = provider.endpoint(self.instance)
        if isinstance(found, SshEndpoint):
            return SshEndpoint(found.host, found.port, self.ssh_user or found.user)
        return found

    def price_per_hour(self) -> float | None:
        """What this instance costs, in US dollars; None if the provider does not tell it. Errors of the provider."""
        price = self.provider.open().get(self.instance).price_per_hour
        return None if isnan(price) else price

    def identity(self) -> Identity:
        """The machine's own key, else that of its provider."""
        if self.ssh_key is None and not isinstance(self.provider, LocalProvider):
            return self.provider.identity()
        return super().identity()
