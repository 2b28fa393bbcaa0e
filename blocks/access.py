"""How machines let us in: what provider and machine blocks share about SSH keys."""

from __future__ import annotations

from pydantic import Field, SecretStr

from blocks.schema import SteadySchema
from poorwill.errors import UsageError
from poorwill.remote.identity import Identity


class SshAccess(SteadySchema):
    """The fields of a block that say which SSH key opens machines. Not a block type of its own."""

    ssh_key: SecretStr | None = Field(
        default=None,
        description="Text of the private key (OpenSSH or PEM) that opens the machines; its public half is put on new "
        "ones. Empty: the keys of the SSH agent and of ~/.ssh of the host that runs the flows.",
    )
    ssh_passphrase: SecretStr | None = Field(default=None, description="Of that key, if it is locked by one.")

    def identity(self) -> Identity:
        """The keys to log in with."""
        return Identity(_shown(self.ssh_key), _shown(self.ssh_passphrase))

    def public_lines(self) -> list[str]:
        """Their public halves, for new machines; empty without any key. UsageError if a given key cannot be read."""
        try:
            return self.identity().public_lines()
        except UsageError:
            if self.ssh_key is not None:
                raise
            return []


def _shown(secret: SecretStr | None) -> str:
    return secret.get_secret_value().strip() if secret is not None else ""
