"""Real SSH servers behind the double of vast.ai: what it rents out can be logged in to, and what it destroys is off."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from tests.support.doubles.vast_server import Machines
from tests.support.ssh_machines import SshMachine

SECRET_FILE_BYTES_MAX = 64 << 20


class Rack(Machines):
    """`machines` are rented out one after another. They run already: a child ends with the thread that started it."""

    def __init__(self, machines: Sequence[SshMachine]) -> None:
        self._free = list(machines)
        self.rented: dict[int, SshMachine] = {}

    def on_create(self, instance_id: int, label: str, public_keys: list[str]) -> tuple[str, int]:
        machine = self._free.pop(0)
        self.rented[instance_id] = machine
        return machine.host, machine.port

    def on_key(self, instance_id: int, public_key: str) -> None:
        self.rented[instance_id].authorize(public_key)

    def on_destroy(self, instance_id: int) -> None:
        self.rented[instance_id].stop()


class Spy:
    """Everything that could be read on machines while it is open: files, logs, command lines, environments.

    `samples` counts how often processes other than the SSH server were seen.
    """

    def __init__(self, machines: Sequence[SshMachine]) -> None:
        self._machines = machines
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="spy", daemon=True)
        self.seen: set[bytes] = set()
        self.samples = 0

    def __enter__(self) -> Spy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(30)

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            for machine in self._machines:
                for process in machine.processes():
                    self._note(process.pid)

    def _note(self, pid: int) -> None:
        for name in ("cmdline", "environ"):
            try:
                data = Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue  # it has ended
            self.seen.add(data)
            self.samples += b"poorwill.engine" in data

    def places_of(self, secret: str) -> list[str]:
        """Where a secret was found."""
        wanted = secret.encode()
        found = ["a process"] if any(wanted in data for data in self.seen) else []
        for machine in self._machines:
            files = [path for path in machine.home.rglob("*") if path.is_file() and not path.is_symlink()]
            found += [str(path) for path in files if wanted in path.read_bytes()[:SECRET_FILE_BYTES_MAX]]
            found += ["the SSH server's log"] if secret in machine.log() else []
        return found
