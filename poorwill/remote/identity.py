"""The private keys with which we log in to a machine."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

from poorwill.errors import UsageError

KEYS_MAX = 6
"""How many are tried: an SSH server hangs up after as many."""
DEFAULT_FILES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key as text (OpenSSH or PEM), or, when that is empty, those of the agent (if wanted) and of `files`."""

    private_key: str = field(default="", repr=False)
    passphrase: str = field(default="", repr=False)
    files: Sequence[str] = DEFAULT_FILES
    agent: bool = True

    def keys(self) -> list[paramiko.PKey]:
        """The keys to try, at most KEYS_MAX. UsageError if a given key cannot be read, or there are no keys."""
        if self.private_key:
            return [_parse(self.private_key, self.passphrase)]
        found = [*(_agent_keys() if self.agent else []), *self._of_files()][:KEYS_MAX]
        if not found:
            raise UsageError(
                "no SSH key: give a private key, start an agent that has one, or create one with "
                "'ssh-keygen -t ed25519'"
            )
        return found

    def public_lines(self) -> list[str]:
        """Their public halves, as lines of an authorized_keys file. UsageError as above."""
        return [f"{key.get_name()} {key.get_base64()}" for key in self.keys()]

    def _of_files(self) -> list[paramiko.PKey]:
        found = []
        for name in self.files:
            path = Path(name).expanduser()
            try:
                found.append(paramiko.PKey.from_path(path))
            except (OSError, ValueError, TypeError, paramiko.SSHException, paramiko.UnknownKeyType):
                continue  # not there, or locked by a passphrase: the agent is the place for such a key
        return found


def _agent_keys() -> list[paramiko.PKey]:
    try:
        return list(paramiko.Agent().get_keys())
    except (OSError, paramiko.SSHException):
        return []


def _parse(text: str, passphrase: str) -> paramiko.PKey:
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(io.StringIO(text.strip() + "\n"), password=passphrase or None)
        except paramiko.PasswordRequiredException:
            raise UsageError("the SSH key is locked by a passphrase: give the passphrase as well") from None
        except (paramiko.SSHException, ValueError, TypeError, IndexError):
            continue
    opened = " with this passphrase" if passphrase else ""
    raise UsageError(
        f"the SSH key cannot be read{opened}: expected the text of a private key of type ed25519, ecdsa or rsa"
    )
