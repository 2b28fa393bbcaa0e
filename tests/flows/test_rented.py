"""Machines rented from a double of vast.ai, reached over real SSH, with a signed S3 store: trusted with nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect_aws import MinIOCredentials
from pydantic import SecretStr

import blocks
from deployments.demo.tree_listing import differences, list_tree
from deployments.servers.s3_server import S3Server
from flows.hibernate import hibernate
from flows.wake import wake
from poorwill.errors import HostRefused, HostUnfit, Refused, Unsupported
from poorwill.providers.base import Wish
from tests.flows.test_hibernate_and_wake import everything
from tests.support.doubles.vast_server import VastServer
from tests.support.engine_homes import EngineHome
from tests.support.flow_world import World
from tests.support.needy_snapshots import reseal
from tests.support.rented_rack import Rack, Spy
from tests.support.runs import take
from tests.support.ssh_machines import KeyPair, SshMachine
from tests.support.workspaces import noise

LINES, REPEATED = 50_000, 345
STORE, SOURCE = "{}-s3", "{}-vast"


@dataclass
class Rented:
    """An account with machines behind it, blocks for it, and one rented machine with a workspace."""

    world: World
    vast: VastServer
    rack: Rack
    machines: list[SshMachine]
    s3: S3Server
    keys: KeyPair

    @property
    def store(self) -> str:
        return STORE.format(self.world.name)

    @property
    def source(self) -> str:
        return SOURCE.format(self.world.name)

    @property
    def secrets(self) -> dict[str, str]:
        """What no machine may ever hold."""
        return {
            "the store's access key": self.s3.access_key,
            "the store's secret key": self.s3.secret_key,
            "a presigned URL": "X-Amz-Signature",
            "the provider's key": self.vast.api_key,
            "the address of Prefect": self.world.server.api_url.removesuffix("/api"),
            "our private key": self.keys.private.splitlines()[2],
        }

    def rent_first(self) -> SshMachine:
        """What somebody did by hand before Poorwill: one machine, and a block that names it."""
        source = blocks.VastProvider.load(self.source)
        instance = source.open().wait(source.open().create("by-hand", Wish(gpu="H100 SXM")).id, 30).id
        blocks.Machine(provider=source, instance=instance).save(self.world.name, overwrite=True)
        return self.rack.rented[int(instance)]


@pytest.fixture
def rented(
    world: World, rent: Callable[..., SshMachine], s3_server: S3Server, ssh_keys: KeyPair,
    engine_home: EngineHome, tmp_path: Path,
) -> Iterator[Rented]:  # fmt: skip
    homes = [tmp_path / "first", engine_home.copy_to(tmp_path / "second")]
    machines = [rent(authorized=[], home=home, sessions_max=2) for home in homes]
    rack = Rack(machines)
    with VastServer(machines=rack) as vast:
        _save_blocks(world, vast, s3_server, ssh_keys)
        yield Rented(world, vast, rack, machines, s3_server, ssh_keys)


def _save_blocks(world: World, vast: VastServer, s3: S3Server, keys: KeyPair) -> None:
    credentials = MinIOCredentials(minio_root_user=s3.access_key, minio_root_password=SecretStr(s3.secret_key))
    store = blocks.S3Store(bucket=s3.bucket, prefix=world.name, endpoint=s3.endpoint, credentials=credentials)
    store.save(STORE.format(world.name))
    source = blocks.VastProvider(api_key=SecretStr(vast.api_key), url=vast.url, ssh_key=SecretStr(keys.private))
    source.save(SOURCE.format(world.name))


def fill(workspace: Path) -> Path:
    """One of everything, and enough for all 32 parts, most of it easily compressed."""
    everything(workspace)
    lines = b"".join(b"%09d a line\n" % n for n in range(LINES))
    with open(workspace / "log.txt", "wb") as log:
        for number in range(REPEATED):
            log.write(b"day %d\n" % number + lines)  # no two chunks alike: a part of known chunks is not sent
    return workspace


def test_asleep_and_awake_on_another_host(rented: Rented) -> None:
    """Equal trees, 32 parts, one channel each, a host key recorded at first contact, and no secret on any machine."""
    first, second = rented.machines
    rented.rent_first()
    workspace = fill(first.home / "workspace")
    expected = list_tree(workspace)
    with Spy([first, second]) as spy:
        slept = hibernate(rented.world.name, rented.store, str(workspace), stop_command="echo stopping > $HOME/stopped")
        asleep = blocks.Machine.load(rented.world.name)
        woken = wake(
            "latest", rented.store, machine=rented.world.name, gpu="H100 SXM", price_per_hour_max=3.0,
            workspace=str(second.home / "workspace"), start_command="pwd > $HOME/started",
        )  # fmt: skip
    assert slept["destroyed"] and slept["parts_sent"] == 32
    assert (asleep.status, asleep.instance) == ("asleep", "")
    assert differences(expected, list_tree(second.home / "workspace")) == []
    awake = blocks.Machine.load(rented.world.name)
    assert awake.status == "awake" and awake.instance == woken["instance"] and awake.host_key == second.host_key
    assert list(rented.vast.rented) == [int(awake.instance)]
    assert (first.home / "stopped").exists()
    assert (second.home / "started").read_text() == f"{second.home}/workspace\n"
    # The first was looked at, given its engine, and then served by one channel; so was the second, without the gift.
    assert (first.sessions_opened(), second.sessions_opened()) == (3, 2)
    assert spy.samples > 20
    found = {name: spy.places_of(secret) for name, secret in rented.secrets.items()}
    assert found == {name: [] for name in rented.secrets}
    assert spy.places_of("POORWILL_STATE_DIR") != []  # so it does look


def test_another_machine_at_the_same_address_is_refused(rented: Rented) -> None:
    """A machine whose host key is not the recorded one is not talked to, and nothing is destroyed."""
    first = rented.rent_first()
    block = blocks.Machine.load(rented.world.name)
    block.host_key = rented.machines[1].host_key
    block.save(rented.world.name, overwrite=True)
    workspace = first.home / "workspace"
    workspace.mkdir()
    with pytest.raises(HostRefused, match="is not the machine it was"):
        hibernate(rented.world.name, rented.store, str(workspace))
    assert first.sessions_opened() == 0 and len(rented.vast.rented) == 1


def test_a_snapshot_that_needs_a_gpu(rented: Rented, tmp_path: Path) -> None:
    """A GPU is asked for that can decode it, by a dry run as well. The machine that comes has none after all: the wake
    ends before anything is restored, says what was found, and the machine is gone. An unknown need rents nothing."""
    rented.rent_first()
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "notes").write_text("notes\n")
    with closing(blocks.S3Store.load(rented.store).open()) as store:
        taken = take(store, tmp_path / "workspace", machine=rented.world.name, codec="raw")
        reseal(store, taken.id, ["nvcomp>=9,<10"])
        named = {"machine": f"{rented.world.name}-woken", "provider": rented.source}
        blocks.Machine(provider=blocks.VastProvider.load(rented.source), name=named["machine"]).save(named["machine"])
        with pytest.raises(Unsupported, match=r"nvcomp>=9,<10.* newer poorwill"):
            wake(taken.id, rented.store, **named)
        assert len(rented.vast.created) == 1 and list(store.list("intents/")) == []

        reseal(store, taken.id, ["nvcomp>=6,<7"])
        plan = wake(taken.id, rented.store, **named, gpu="V100", dry_run=True)
        assert "with nvCOMP 6, an NVIDIA GPU" in plan["would"] and plan["offers"] == []  # its driver is too old
        assert plan["needs"] == ["nvcomp>=6,<7"]
        with pytest.raises(Refused, match=f"gpu=V100, .*; snapshot {taken.id} needs nvCOMP 6"):
            wake(taken.id, rented.store, **named, gpu="V100")
        target = rented.machines[1].home / "workspace"
        with pytest.raises(HostUnfit, match=r"has no NVIDIA GPU .* convert .* destroyed") as unfit:
            wake(taken.id, rented.store, **named, workspace=str(target))
        assert list(store.list("intents/")) == []
    assert not target.exists() and "nothing was restored" in unfit.value.message
    assert len(rented.vast.created) == 2 and len(rented.vast.rented) == 1  # the one rented by hand
    block = blocks.Machine.load(named["machine"])
    assert (block.status, block.instance) == ("asleep", "")
    searched = [body for body in rented.vast.bodies if body and "num_gpus" in body][-1]
    wanted = {name: searched[name] for name in ("num_gpus", "cuda_max_good", "compute_cap")}
    assert wanted == {"num_gpus": {"gte": 1}, "cuda_max_good": {"gte": 12.0}, "compute_cap": {"gte": 700}}


def test_a_machine_of_ones_own(rented: Rented) -> None:
    """It is snapshotted over SSH and restored onto as it is, fetching only what differs; it is never destroyed."""
    machine, workspace = rented.machines[1], rented.machines[1].home / "workspace"
    machine.authorize(rented.keys.public)
    box = blocks.Machine(
        provider=blocks.OwnMachines(), instance="box", ssh_host=machine.host, ssh_port=machine.port,
        ssh_user=machine.user, ssh_key=SecretStr(rented.keys.private), host_key=machine.host_key,
    )  # fmt: skip
    box.save(rented.world.name, overwrite=True)
    workspace.mkdir()
    (workspace / "weights").write_bytes(noise(20 << 20))
    (workspace / "notes").write_text("before\n")
    with pytest.raises(Refused, match="one of your own and cannot be destroyed: use destroy=False"):
        hibernate(rented.world.name, rented.store, str(workspace))
    kept = hibernate(rented.world.name, rented.store, str(workspace), destroy=False)
    expected = list_tree(workspace)
    (workspace / "notes").write_text("after, and longer\n")
    woken = wake(kept["snapshot_id"], rented.store, machine=rented.world.name, workspace=str(workspace), overwrite=True)
    assert differences(expected, list_tree(workspace)) == []
    assert not woken["provisioned"] and woken["fetched_bytes"] < 1 << 20 < woken["kept_bytes"]
