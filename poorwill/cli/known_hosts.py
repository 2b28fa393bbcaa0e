"""OpenSSH's known_hosts file: where the command line looks up host keys, and adds those of first contacts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import paramiko

from poorwill.errors import UsageError
from poorwill.providers.base import SshEndpoint
from poorwill.remote.host_key import TYPES, PinnedKey, fingerprint


class KnownHosts:
    """One file. What OpenSSH wrote there is read, also with hashed names; lines are only ever added."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pin(self, endpoint: SshEndpoint, say: Callable[[str], None]) -> PinnedKey:
        """The key of that host, or, if it is new, one that is added when it is first seen. UsageError."""
        name = endpoint.host if endpoint.port == 22 else f"[{endpoint.host}]:{endpoint.port}"

        def record(line: str) -> None:
            say(f"first contact with {name}: its host key is {fingerprint(line)}, added to {self._path}")
            self._add(f"{name} {line}\n")

        return PinnedKey(self._known(name), record)

    def _known(self, name: str) -> str:
        try:
            found = paramiko.HostKeys(str(self._path)).lookup(name) or {}
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise UsageError(f"{self._path}: {error.strerror}") from None
        ranked = sorted((kind for kind in found if kind in TYPES), key=TYPES.index)
        return f"{ranked[0]} {found[ranked[0]].get_base64()}" if ranked else ""

    def _add(self, line: str) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(fd).st_size
                whole = not size or os.pread(fd, 1, size - 1) == b"\n"
                os.write(fd, (line if whole else f"\n{line}").encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise UsageError(f"{self._path}: {error.strerror}: the host key cannot be added") from None
