"""The flows against a real Prefect server: there and back, what they show, and what they refuse."""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.exceptions import ParameterTypeError
from pydantic import SecretStr

import blocks
from blocks.lookup import save_machine
from deployments.demo.tree_listing import differences, list_tree
from deployments.servers.s3_server import S3Server
from flows.hibernate import hibernate
from flows.replicate import replicate
from flows.slots import machine_slot
from flows.snapshot import snapshot
from flows.wake import wake
from flows.wake_run import snapshot_id_of
from poorwill.control.machine import provisioning
from poorwill.control.machine.provisioning import Clock
from poorwill.control.records import intents
from poorwill.errors import Corrupt, EngineFailed, HostUnfit, NotFound, PoorwillError, Refused, UsageError
from tests.support.flow_world import SNAPSHOT_ID, World
from tests.support.needy_snapshots import nvidia_smi, reseal
from tests.support.runs import take
from tests.support.workspaces import SET_ID, SKIPPED, aged, make_everything, noise, safetensors
from tests.worker.rig import until

MIB = 1 << 20


def everything(workspace: Path) -> None:
    """All kinds of files, but for those that a restore does not bring back unless it is asked to."""
    make_everything(workspace)
    for name in (*SKIPPED, *SET_ID):
        path = Path(os.fsdecode(os.path.join(os.fsencode(workspace), name)))
        path.rmdir() if path.is_dir() else path.unlink()


def small(workspace: Path) -> None:
    for number in range(5):
        (workspace / f"{number}.txt").write_text(f"{number}\n" * 1000)


def artifacts(key: str) -> list[Any]:
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def test_there_and_back(world: World) -> None:
    """Gone after hibernate, equal after wake onto another machine, and the block tells which it is."""
    workspace = world.machine(everything)
    before, expected = world.block().instance, list_tree(workspace)
    done = hibernate(**world.hibernation(parts=4, verify="full"))
    assert done["destroyed"] and not world.provider.exists(before)
    assert world.keys("pending/") == [] and world.keys("snapshots/") != []
    asleep = world.block()
    assert (asleep.instance, asleep.status, asleep.snapshot) == ("", "asleep", SNAPSHOT_ID)

    woken = wake("latest", world.store_name, machine=world.name)
    awake = world.block()
    assert (awake.instance, awake.status, awake.snapshot) == (woken["instance"], "awake", SNAPSHOT_ID)
    assert awake.instance != before
    # What shows that the machine holds work lives as long as the machine.
    (intent,) = intents.of_machine(world.store, world.name)
    assert intent.woken and intent.instance == awake.instance and intent.flow_run
    assert differences(expected, list_tree(world.workspace(awake.instance))) == []

    again = hibernate(world.name, world.store_name)
    assert again["parent"] == SNAPSHOT_ID and again["totals"]["sent_raw_bytes"] == 0 and again["destroyed"]
    assert world.keys("intents/") == []


def test_a_hibernation_that_is_done_is_not_done_again(world: World) -> None:
    """The same id after the machine is gone reports what was done; another id has no machine to read."""
    world.machine(small)
    done = hibernate(**world.hibernation())
    again = hibernate(**world.hibernation())
    assert again["already_done"] and again["totals"] == done["totals"]
    with pytest.raises(NotFound, match="asleep"):
        hibernate(world.name, world.store_name)


def test_a_wake_that_is_done_is_not_done_again(world: World) -> None:
    """Onto the machine that it woke it says so, and leaves the work done since; without the engine's memory it refuses,
    and does not advise to overwrite what would be lost."""
    world.machine(small)
    hibernate(**world.hibernation())
    woken = wake(SNAPSHOT_ID, world.store_name, machine=world.name)
    assert not woken["already_done"]
    workspace = world.workspace(woken["instance"])
    (workspace / "result.txt").write_text("hours of work")
    state = wake(SNAPSHOT_ID, world.store_name, machine=world.name, return_state=True)
    assert state.is_completed() and str(state.message).startswith("already awake: machine ")
    again = wake("latest", world.store_name, machine=world.name)
    assert again["already_done"] and again["instance"] == woken["instance"] and again["fetched_bytes"] == 0
    assert (workspace / "result.txt").read_text() == "hours of work"
    for remembered in (world.folder / "machines").glob("**/restored-*.json"):
        remembered.unlink()
    with pytest.raises(Refused, match=r"is awake from snapshot .* already.*nothing was restored.*set overwrite"):
        wake(SNAPSHOT_ID, world.store_name, machine=world.name)
    assert (workspace / "result.txt").read_text() == "hours of work"


def test_commands_run_before_and_after(world: World) -> None:
    """What the stop command did is in the snapshot; a start command that fails leaves the machine awake."""
    world.machine(small)
    done = hibernate(**world.hibernation(stop_command="echo stopped > stopped.txt"))
    assert done["destroyed"]
    woken = wake(
        SNAPSHOT_ID, world.store_name, provider=world.provider_name, start_command="cat stopped.txt > started.txt"
    )
    assert (world.workspace(woken["instance"]) / "started.txt").read_text() == "stopped\n"
    with pytest.raises(EngineFailed, match=r"awake.*its start command failed.*status 3: no such service"):
        wake(
            SNAPSHOT_ID,
            world.store_name,
            machine=world.name,
            workspace="/again",
            start_command="echo no such service; exit 3",
        )
    assert world.provider.exists(world.block().instance)


def test_a_snapshot_leaves_the_machine_and_reports(world: World) -> None:
    """Artifacts: progress, a table of the parts, a report with pictures below 100 KB; nothing pending is left."""
    workspace = world.machine(lambda w: (w / "a.safetensors").write_bytes(safetensors("BF16", 9 * MIB, 1)))
    done = snapshot(world.name, world.store_name, parts=3)
    assert world.provider.exists(world.block().instance) and workspace.exists()
    assert world.keys("pending/") == [] and done["verified"]["mode"] == "stored" and not done["destroyed"]
    for key in ("compressed", "uploaded", "parts"):
        assert artifacts(key)
    reports = [a for a in artifacts("snapshot") if done["snapshot_id"] in a.data]
    assert len(reports) == 1
    text = str(reports[0].data)
    assert text.count("data:image/svg+xml;base64,") == 3 and ".safetensors" not in text
    assert done["cost"]["price_per_hour"] == 0.0 and "sleeping saves no money" in text
    assert len(text.encode()) < 100_000 and f"| {done['parts_sent'] - 1:02d} |" in text


def test_thirty_two_parts_each_a_task_run(world: World) -> None:
    """A full snapshot above 256 MiB has 32 parts, each packed and restored by a task run of its own."""

    def full(workspace: Path) -> None:
        for number in range(4):
            (workspace / f"{number}.bin").write_bytes(noise(65_521, number) * 1041)

    expected = list_tree(world.machine(full))
    done = hibernate(**world.hibernation(codec="zstd"))
    assert done["parts_sent"] == 32 and len(world.parts()) == 32
    woken = wake(SNAPSHOT_ID, world.store_name, machine=world.name)
    assert differences(expected, list_tree(world.workspace(woken["instance"]))) == []


def test_through_s3_with_credentials_in_blocks(world: World, s3_server: S3Server) -> None:
    """A MinIO block's keys reach the store, and neither they nor a presigned URL reach an artifact or a result."""
    credentials = blocks.stores.MinIOCredentials(
        minio_root_user=s3_server.access_key,
        minio_root_password=SecretStr(s3_server.secret_key),
        region_name="us-east-1",
    )
    credentials.save(f"{world.name}-keys")
    store = blocks.S3Store(
        bucket=s3_server.bucket, prefix=world.name, endpoint=s3_server.endpoint, credentials=credentials
    )
    store.save(f"{world.name}-bucket")
    expected = list_tree(world.machine(everything))
    done = hibernate(**world.hibernation(store=f"{world.name}-bucket", parts=4))
    woken = wake(f"latest:{world.name}", f"poorwill-s3-store/{world.name}-bucket", machine=world.name)
    assert differences(expected, list_tree(world.workspace(woken["instance"]))) == []
    shown = repr(done) + repr(woken) + "".join(str(a.data) for key in ("snapshot", "wake") for a in artifacts(key))
    assert s3_server.secret_key not in shown and "X-Amz-" not in shown


def test_a_dry_run_creates_nothing(world: World) -> None:
    """It shows which machine would be created and what it costs; afterwards there is no machine, and no intent."""
    world.machine(small)
    hibernate(**world.hibernation())
    plan = wake(SNAPSHOT_ID, world.store_name, machine=world.name, dry_run=True)
    assert plan["would"].startswith("create a machine") and plan["files"] == 5
    assert os.listdir(world.provider.root) == [] and world.keys("intents/") == []
    assert any(SNAPSHOT_ID in str(a.data) for a in artifacts("wake-plan"))
    offers = [a.data for a in artifacts("wake-offers") if str(world.provider.root) in a.description]
    assert '"chosen": "this one"' in offers[0] and '"$ per hour": 0.0' in offers[0]
    assert plan["choice"]["id"] == "directory" and plan["disk_gb"] == 1 and plan["price_per_hour"] == 0.0


def test_a_snapshot_that_needs_a_gpu_on_a_host_of_ones_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without a GPU is refused before there is a machine. One that seems to have a GPU, but without a working
    CUDA, is refused by the engine, and the machine is gone again."""
    world.machine(small)
    hibernate(**world.hibernation())
    reseal(world.store, SNAPSHOT_ID, ["nvcomp>=6,<7"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", nvidia_smi(world.folder / "bin", 0))
    calls: list[Callable[..., Any]] = [
        partial(wake, SNAPSHOT_ID, world.store_name, machine=world.name),
        partial(wake, SNAPSHOT_ID, world.store_name, machine=world.name, dry_run=True),
        partial(replicate, SNAPSHOT_ID, world.store_name, 2, provider=world.provider_name),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"needs nvCOMP 6.* this host, which has no NVIDIA GPU"):
            call()
    assert os.listdir(world.provider.root) == []
    monkeypatch.setenv("PATH", nvidia_smi(world.folder / "bin", 1))
    plan = wake(SNAPSHOT_ID, world.store_name, machine=world.name, dry_run=True)
    assert "with nvCOMP 6, an NVIDIA GPU of compute capability 7.0" in plan["would"]
    with pytest.raises(HostUnfit, match=r"nvCOMP 6.* nothing was restored.* was destroyed again"):
        wake(SNAPSHOT_ID, world.store_name, machine=world.name)
    assert os.listdir(world.provider.root) == [] and world.keys("intents/") == []
    assert (world.block().status, world.block().instance) == ("asleep", "")


def test_a_machine_that_cannot_be_woken_is_destroyed_again(world: World) -> None:
    """A damaged part ends the wake with its name; the machine that was created for it does not go on billing."""
    world.machine(small)
    hibernate(**world.hibernation())
    part = world.folder / "store" / world.keys("parts/")[0]
    damaged = bytearray(part.read_bytes())
    damaged[10] ^= 1
    part.chmod(0o600)
    part.write_bytes(damaged)
    with pytest.raises(Corrupt, match="destroyed again"):
        wake(SNAPSHOT_ID, world.store_name, machine=world.name)
    assert os.listdir(world.provider.root) == [] and world.keys("intents/") == []
    assert (world.block().instance, world.block().status) == ("", "asleep")


def test_a_wish_without_an_offer_leaves_nothing(world: World) -> None:
    """The provider's refusal is the error; there is no machine, no intent, and the message mentions none."""
    world.machine(small)
    hibernate(**world.hibernation())
    with pytest.raises(Refused, match="leave out gpu") as refused:
        wake(SNAPSHOT_ID, world.store_name, machine=world.name, gpu="H200", gpu_count=8)
    assert "destroyed" not in str(refused.value)
    assert os.listdir(world.provider.root) == [] and world.keys("intents/") == []


def test_a_machine_that_is_awake_is_not_forgotten(world: World) -> None:
    """Waking by name while it is awake would lose sight of the instance that bills: refused, nothing created."""
    world.machine(small)
    snapshot(**world.hibernation())
    with pytest.raises(Refused, match="is awake as instance"):
        wake(SNAPSHOT_ID, world.store_name, provider=world.provider_name)
    assert os.listdir(world.provider.root) == [world.block().instance]
    with pytest.raises(Refused, match="not empty"):
        wake(SNAPSHOT_ID, world.store_name, machine=world.name)
    assert world.provider.exists(world.block().instance)


def test_a_machine_of_another_interrupted_wake_is_named(world: World) -> None:
    """An open intent whose machine exists stops a wake of another snapshot; one without a machine is closed."""
    world.machine(small)
    hibernate(**world.hibernation())
    other, long_ago = "20250101T000000Z-00000001", Clock(now_s=lambda: 0.0)
    provisioning.begin(world.store, world.provider, world.name, other, clock=long_ago)
    assert wake(SNAPSHOT_ID, world.store_name, machine=world.name)["provisioned"]
    hibernate(world.name, world.store_name)
    intent = provisioning.begin(world.store, world.provider, world.name, other, clock=long_ago).intent
    left = world.provider.create(intent.label, provisioning.Wish())
    with pytest.raises(Refused, match=intent.label):
        wake("latest", world.store_name, machine=world.name)
    assert world.provider.exists(left.id)


def test_latest_is_what_the_machine_sleeps_in(world: World, tmp_path: Path) -> None:
    """Also where another snapshot was asked for later, and taken before: ids tell when a snapshot was asked for."""
    (tmp_path / "state").mkdir()
    early, late = (take(world.store, tmp_path / "state", f"2026010{day}T000000Z-00000001", machine=world.name).id
                   for day in (2, 3))  # fmt: skip
    asleep = blocks.Machine(provider=blocks.OwnMachines(), status="asleep", snapshot=early, name=world.name)
    for block, found in (
        (asleep, early),
        (asleep.model_copy(update={"snapshot": "20260109T000000Z-00000001"}), late),  # of another store
        (asleep.model_copy(update={"status": "awake"}), late),
    ):
        assert snapshot_id_of(world.store, "latest", world.name, block) == found
    assert snapshot_id_of(world.store, f"latest:{world.name}", None) == late


def test_a_hibernation_that_waited_looks_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A machine that a wake began to fill while a hibernation waited for it is not put to sleep half full."""
    world.machine(small)
    block = world.block()
    with ThreadPoolExecutor(1) as threads:
        with machine_slot(world.name):
            waits = threads.submit(contextvars.copy_context().run, lambda: hibernate(**world.hibernation()))
            until(lambda: "if this run is cut off" in caplog.text, "a hibernation that is about to wait")
            block.status = "waking"
            save_machine(world.name, block)
        with pytest.raises(Refused, match="is being woken"):
            waits.result(60)
    assert world.provider.exists(block.instance) and world.keys("") == []


def test_one_at_a_time(world: World) -> None:
    """While one run holds the machine another is refused after its wait, with the reason, and touches nothing."""
    with (
        machine_slot(world.name),
        pytest.raises(Refused, match=f"machine-{world.name}"),
        machine_slot(world.name, wait_s=0.5),
    ):
        raise AssertionError("two runs at once")
    with machine_slot(world.name, wait_s=5.0):
        pass  # it was given back


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"verify": "sample"}, Refused, "sample"),
        ({"snapshot_id": "yesterday"}, UsageError, "yesterday"),
        ({"store": "nothing-there"}, NotFound, "no store block"),
        ({"store": "no/such/type"}, UsageError, "poorwill-local-store"),
        ({"machine": "nobody"}, NotFound, "no machine block"),
        ({"workspace": "/../etc"}, UsageError, "absolute path"),
        ({"parts": 33}, ParameterTypeError, "parts"),
        ({"codec": "lzma"}, ParameterTypeError, "codec"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_touched(
    world: World, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Each wrong parameter gets an error that names it; the machine is there, and the store is empty."""
    world.machine(small)
    with pytest.raises(error, match=words):
        hibernate(**{**world.hibernation(), **given})
    assert world.provider.exists(world.block().instance) and world.keys("") == []


def test_waking_with_wrong_parameters_is_refused(world: World) -> None:
    """No such snapshot, no machine to take the latest of, no provider: refused before anything is created."""
    wrong: list[tuple[dict[str, Any], type[PoorwillError]]] = [
        ({"snapshot": SNAPSHOT_ID}, NotFound),
        ({"snapshot": "latest"}, UsageError),
        ({"snapshot": "latest:nobody"}, NotFound),
        ({"snapshot": "../x", "provider": world.provider_name}, UsageError),
    ]
    for given, error in wrong:
        with pytest.raises(error):
            wake(store=world.store_name, **given)
    assert not world.provider.root.exists()


def test_the_state_of_a_failed_run_is_the_error(world: World) -> None:
    """What a user sees in the UI is the one-line message, of the flow and not of its machinery."""
    aged(world.machine(lambda w: (w / "x").write_text("x")))
    state = hibernate(**world.hibernation(parent="20250101T000000Z-00000001"), return_state=True)
    assert state.is_failed()
    assert state.message is not None and "20250101T000000Z-00000001 does not exist" in state.message
    assert "\n" not in state.message and "Traceback" not in state.message
