"""Homes that have the engine already: installing it takes seconds, which only the tests of shipping should pay."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.network.relay import Relay
from poorwill.providers.base import SshEndpoint
from poorwill.remote.host_key import PinnedKey
from poorwill.remote.identity import Identity
from poorwill.remote.ssh_host import SshHost
from tests.support.ssh_machines import KeyPair, SshMachine
from tests.support.sshd_software import Software

ENGINE = Path(".poorwill/engine")


@dataclass(frozen=True)
class EngineHome:
    """A home with the engine, shipped there once over SSH."""

    path: Path
    steps: Sequence[str]
    """What shipping said."""

    def copy_to(self, home: Path) -> Path:
        """Put the engine into another home, as if it had been there."""
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copytree(self.path / ENGINE, home / ENGINE, symlinks=True, copy_function=_linked)
        return home


def _linked(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def ship_once(folder: Path, software: Software, keys: KeyPair) -> EngineHome:
    """Ship the engine to a machine that has nothing."""
    steps: list[str] = []
    with SshMachine(folder, software, authorized=[keys.public]) as machine:
        ssh_host(machine, keys, on_step=steps.append).start().close()
        return EngineHome(machine.home, steps)


def endpoint(machine: SshMachine, relay: Relay | None = None) -> SshEndpoint:
    """Where it is reached: directly, or through a relay."""
    host, port = relay.address if relay is not None else (machine.host, machine.port)
    return SshEndpoint(host, port, machine.user)


def ssh_host(
    machine: SshMachine, keys: KeyPair, *, relay: Relay | None = None, pin: PinnedKey | None = None, **options: object
) -> SshHost:
    """The machine as a host, by its own host key unless another pin is given."""
    known = pin or PinnedKey(machine.host_key)
    return SshHost(endpoint(machine, relay), Identity(keys.private), known, **options)  # type: ignore[arg-type]
