"""OpenSSH's known_hosts file: where the command line looks up host keys, and adds those of first contacts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import paramiko

from poorwill.errors import UsageError
from poorwill.providers.base import SshEndpoint
from poorwill.remote.host_key import TYPES, PinnedKey, fingerprint


def pinned(path: Path, endpoint: SshEndpoint, say: Callable[[str], None]) -> PinnedKey:
    """The key of that host in the file, or, if it is new, one that is added when it is first seen. UsageError.

    What OpenSSH wrote there is read, also with hashed names; lines are only ever added.
    """
    name = endpoint.host if endpoint.port == 22 else f"[{endpoint.host}]:{endpoint.port}"

    def record(line: str) -> None:
        say(f"first contact with {name}: its host key is {fingerprint(line)}, added to {path}")
        _add(path, f"{name} {line}\n")

    return PinnedKey(_known(path, name), record)


def _known(path: Path, name: str) -> str:
    try:
        found = paramiko.HostKeys(str(path)).lookup(name) or {}
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    ranked = sorted((kind for kind in found if kind in TYPES), key=TYPES.index)
    return f"{ranked[0]} {found[ranked[0]].get_base64()}" if ranked else ""


def _add(path: Path, line: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            whole = not size or os.pread(file.fileno(), 1, size - 1) == b"\n"
            file.write((line if whole else f"\n{line}").encode())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}: the host key cannot be added") from None
