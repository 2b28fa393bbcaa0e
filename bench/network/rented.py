"""Machines behind SSH and stores behind a network: what the way there costs.

The machine is this one, behind a real SSH server; the store is `rclone serve s3` on the same scratch folder, for all
contestants alike, directly or behind a relay of a set speed.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.arena import Arena, Made, say
from bench.measure import Command, CommandFailed, Usage, alternate
from bench.network.relay import Relay
from bench.tree import tree_digest
from deployments.servers.s3_server import S3Server
from tests.support.ssh_machines import KeyPair, SshMachine
from tests.support.sshd_software import choose, installer

PAIRS = 5
LINK_BYTES_PER_S = 40e6
HERE, OVER_SSH = "poorwill, S3 store", "poorwill over SSH, S3 store"
PROGRAM = Path(sys.executable).parent / "poorwill"
# What rclone writes for each request, at its level DEBUG.
REQUEST = re.compile(
    r"serve s3: (GET OBJECT|CREATE OBJECT|HEAD OBJECT|DELETE OBJECT|DELETE MULTI|LIST BUCKET|"
    r"initiate multipart|put multipart|complete multipart|abort multipart|list multipart)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Linked:
    """One snapshot and its restore through a link of LINK_BYTES_PER_S."""

    stored_bytes: int
    pack_s: float
    restore_s: float
    snapshot_requests: dict[str, int]
    restore_requests: dict[str, int]


@dataclass(slots=True)
class Rig:
    """A store, a machine, and how the program reaches both."""

    server: S3Server
    machine: SshMachine
    folder: Path
    uses: int = 0

    @contextmanager
    def store(self) -> Iterator[list[str]]:
        """The arguments of an empty store, which is removed; never the same again, as rclone remembers folders."""
        self.uses += 1
        prefix = f"bench-{self.uses}"
        try:
            yield ["--store", self.server.url(prefix)]
        finally:
            shutil.rmtree(self.server.root / self.server.bucket / prefix, ignore_errors=True)

    def command(self, *arguments: str, ssh: bool, endpoint: str | None = None) -> Command:
        where = ["--ssh", f"{self.machine.user}@{self.machine.host}:{self.machine.port}"] if ssh else []
        key = ["--ssh-key", str(self.folder / "key")] if ssh else []
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder / "home"), **self.server.env()}
        if endpoint is not None:
            env |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ENDPOINT_URL_S3": endpoint}
        return Command([str(PROGRAM), *arguments, "--json", *where, *key], env=env)

    def requests(self) -> dict[str, int]:
        """What the server was asked since it was asked this."""
        log = self.server.log_path
        kinds = Counter(found.lower() for found in REQUEST.findall(log.read_text(errors="replace")))
        log.write_text("")
        return dict(sorted(kinds.items()))


@contextmanager
def rig(scratch: Path, *, log_requests: bool = False) -> Iterator[Rig]:
    """All of it on `scratch`, which is removed."""
    folder, keys = scratch / "rented", KeyPair.generate()
    (folder / "home").mkdir(parents=True)
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_text(keys.private)
    arguments = ("--log-level", "DEBUG") if log_requests else ()
    software = choose(installer=installer())
    try:
        with (
            S3Server(folder / "objects", arguments=arguments) as server,
            SshMachine(folder / "machine", software, authorized=[keys.public]) as machine,
        ):
            yield Rig(server, machine, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _done(usage: Usage) -> dict[str, Any]:
    """The last JSON line of a command."""
    try:
        return dict(json.loads(usage.stdout.strip().splitlines()[-1]))
    except (IndexError, ValueError):
        raise CommandFailed("poorwill ended without its last JSON line") from None


def over_ssh(arena: Arena) -> None:
    """Snapshot and restore on the same store, started here and over SSH, in pairs."""
    made = arena.workspace("weights")
    packs: dict[str, list[Usage]] = {HERE: [], OVER_SSH: []}
    backs: dict[str, list[Usage]] = {HERE: [], OVER_SSH: []}
    with rig(arena.scratch) as built:

        def once(name: str) -> Callable[[int], None]:
            def turn(number: int) -> None:
                ssh = name == OVER_SSH
                with built.store() as store, _removed(arena.scratch / "restored") as target:
                    pack = built.command("snapshot", str(made.path), "--machine", "bench", *store, ssh=ssh)
                    packs[name].append(arena.measured(pack))
                    snapshot = str(_done(packs[name][-1])["snapshot_id"])
                    back = built.command("restore", snapshot, str(target), *store, ssh=ssh)
                    backs[name].append(arena.measured(back))
                    _compare(target, made, number)
                there_s, back_s = packs[name][-1].wall_s, backs[name][-1].wall_s
                say(f"ssh {number + 1}: {name}: {there_s:.2f} s there, {back_s:.2f} s back")

            return turn

        # The first contact ships the engine, which is not what is compared.
        _first_contact(built, arena)
        arena.failed("ssh", alternate({name: once(name) for name in packs}, PAIRS))
    for name in packs:
        arena.add(made, "snapshot", name, packs[name])
        arena.add(made, "restore", name, backs[name])


def _first_contact(built: Rig, arena: Arena) -> None:
    empty = built.folder / "empty"
    empty.mkdir()
    with built.store() as store:
        arena.measured(built.command("snapshot", str(empty), "--machine", "first", *store, ssh=True))


@contextmanager
def _removed(target: Path) -> Iterator[Path]:
    try:
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _compare(target: Path, made: Made, number: int) -> None:
    if number == 0 and tree_digest(target) != made.digest:
        raise CommandFailed("poorwill gave back something else than it was given")


def link_limited(arena: Arena) -> list[Linked]:
    """A store behind a link of 40 MB/s each way: how long packing and restoring take, and what they ask the store."""
    made = arena.workspace("weights")
    found: list[Linked] = []
    with rig(arena.scratch, log_requests=True) as built:
        port = int(built.server.endpoint.rpartition(":")[2])
        with Relay(("127.0.0.1", port), bytes_per_second=LINK_BYTES_PER_S) as relay:
            endpoint = f"http://{relay.host}:{relay.port}"

            def turn(number: int) -> None:
                built.requests()
                with built.store() as store, _removed(arena.scratch / "restored") as target:
                    arguments = ("snapshot", str(made.path), "--machine", "bench", *store)
                    packed = _done(arena.measured(built.command(*arguments, ssh=False, endpoint=endpoint)))
                    asked = built.requests()
                    arguments = ("restore", packed["snapshot_id"], str(target), *store)
                    restored = _done(arena.measured(built.command(*arguments, ssh=False, endpoint=endpoint)))
                    _compare(target, made, number)
                pack_s, restore_s = packed["timings_ms"]["pack"] / 1000, restored["timings_ms"]["restore"] / 1000
                found.append(Linked(int(packed["stored_bytes"]), pack_s, restore_s, asked, built.requests()))
                say(f"link {number + 1}: {pack_s:.1f} s to pack, {restore_s:.1f} s to restore")

            arena.failed("link", alternate({"poorwill": turn}, arena.report.runs))
    return found
