"""The key by which a machine is known: given beforehand, or recorded at first contact and never changed silently."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable

from poorwill.errors import HostRefused, UsageError

TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


class PinnedKey:
    """What a machine's host key must be. `known` is a line "TYPE BASE64"; empty before the first contact.

    record(line) is called once, with the key found at first contact, after the login succeeded.
    """

    def __init__(self, known: str = "", record: Callable[[str], None] = lambda line: None) -> None:
        self.known = checked_line(known) if known.strip() else ""
        self._record = record

    def algorithms(self, offered: tuple[str, ...]) -> tuple[str, ...]:
        """The algorithms to negotiate, that of the known key first: a server shows only one of its keys."""
        if not self.known:
            return offered
        kind = self.known.split()[0]
        ours = tuple(name for name in offered if name == kind or (kind == "ssh-rsa" and name.startswith("rsa-sha2-")))
        return ours + tuple(name for name in offered if name not in ours)

    def check(self, line: str, where: str) -> None:
        """HostRefused if the machine shows another key than the known one."""
        if self.known and line != self.known:
            raise HostRefused(
                f"{where} is not the machine it was: its host key is {fingerprint(line)}, expected "
                f"{fingerprint(self.known)}. Somebody may be in between, or its address belongs to another machine "
                "now: nothing was sent. If you know why it changed, clear the host key in the machine's block"
            )

    def accept(self, line: str) -> None:
        """The login succeeded: from here on this is the machine's key."""
        if not self.known:
            self._record(line)
            self.known = line


def checked_line(line: str) -> str:
    """A host key without its comment, or UsageError."""
    words = line.split()
    if len(words) >= 2 and words[0] in TYPES:
        try:
            blob = base64.b64decode(words[1], validate=True)
        except (binascii.Error, ValueError):
            blob = b""
        name = words[0].encode()
        if blob.startswith(len(name).to_bytes(4, "big") + name):
            return f"{words[0]} {words[1]}"
    raise UsageError(
        f"'{line[:60]}' is not a host key: expected a line like 'ssh-ed25519 AAAA...', as "
        "/etc/ssh/ssh_host_ed25519_key.pub on the machine holds it"
    )


def fingerprint(line: str) -> str:
    """As OpenSSH shows it: SHA256:..."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
