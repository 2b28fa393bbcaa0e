"""SIGKILL at exact moments, of the flow's process, of the engine and of the store's server: nothing is lost, and the
next run of the same hibernation or wake sends only what is missing and ends equal."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

import blocks
from deployments.demo.tree_listing import differences, list_tree
from deployments.servers.s3_server import S3Server
from flows.hibernate import hibernate
from flows.snapshot import snapshot
from flows.wake import wake
from poorwill.errors import Refused
from poorwill.store.base import Pieces
from poorwill.store.local import LocalStore
from poorwill.store.retrying import RetryingStore
from tasks.events import STILL_BILLING
from tests.support.flow_world import SNAPSHOT_ID, World
from tests.support.runs import restore
from tests.support.told_events import told

pytestmark = pytest.mark.long

PARTS = 4


@pytest.mark.parametrize(
    ("moment", "parts_kept"),
    [("put:pending/:2", 0), ("complete_upload:parts/:2", 2), ("before-put:snapshots/:1", None)],
    ids=["after the scan", "after two parts", "before the metadata"],
)
def test_a_hibernation_killed_before_its_commit(
    world: World, tmp_path: Path, moment: str, parts_kept: int | None
) -> None:
    """No metadata, the machine is there, what is pending is on record; then only the missing parts are sent."""
    workspace = world.machine()
    instance, expected = world.block().instance, list_tree(workspace)
    world.killed_at("hibernate", world.hibernation(parts=PARTS), moment)
    assert world.provider.exists(instance) and differences(expected, list_tree(workspace)) == []
    assert world.keys("snapshots/") == [] and world.keys("verified/") == [] and len(world.keys("pending/")) == 1
    kept = world.parts()
    assert parts_kept is None or len(kept) == parts_kept

    done = hibernate(**world.hibernation(parts=PARTS))
    assert done["destroyed"] and not world.provider.exists(instance) and world.keys("pending/") == []
    after = world.parts()
    assert {key: after[key] for key in kept} == kept and done["parts_sent"] == len(after) - len(kept)
    restore(world.store, SNAPSHOT_ID, tmp_path / "restored")
    assert differences(expected, list_tree(tmp_path / "restored")) == []


def test_a_hibernation_killed_before_it_destroys(world: World) -> None:
    """Committed and verified, and the machine still there: the next run sends nothing, proves it again, destroys."""
    world.machine()
    instance = world.block().instance
    world.killed_at("hibernate", world.hibernation(parts=PARTS), "put:verified/:1")
    assert world.provider.exists(instance) and len(world.keys("pending/")) == 1
    sent = world.parts()
    done = hibernate(**world.hibernation(parts=PARTS))
    assert done["destroyed"] and done["parts_sent"] == 0 and world.parts() == sent
    assert not world.provider.exists(instance) and world.keys("pending/") == []


def test_a_workspace_that_changed_since_the_commit_keeps_its_machine(world: World) -> None:
    """Somebody worked on between the commit and the next run of the same id: the machine is not destroyed, by name."""
    workspace = world.machine()
    instance = world.block().instance
    snapshot(**world.hibernation(parts=PARTS))
    (workspace / "result.txt").write_text("hours of work")
    with pytest.raises(Refused, match=r"result\.txt.*not destroyed"):
        hibernate(**world.hibernation(parts=PARTS))
    assert world.provider.exists(instance) and world.block().instance == instance
    (event,) = told(STILL_BILLING, "machine", world.name)
    assert event["instance"] == instance and "is verified, but" in event["message"] and "result.txt" in event["message"]


def test_a_wake_killed_midway_is_continued_on_the_same_machine(world: World) -> None:
    """The intent names the machine: the next wake adopts it instead of renting a second one, and ends equal."""
    expected = list_tree(world.machine())
    hibernate(**world.hibernation(parts=PARTS))
    parameters = {"snapshot": SNAPSHOT_ID, "store": world.store_name, "machine": world.name}
    world.killed_at("wake", parameters, "grant_read:parts/:3")
    left = [path.name for path in world.provider.root.iterdir()]
    assert len(left) == 1 and len(world.keys("intents/")) == 1 and world.block().status == "waking"

    woken = wake(**parameters)
    assert [woken["instance"]] == left == [path.name for path in world.provider.root.iterdir()]
    assert woken["resumed"] and len(world.keys("intents/")) == 1 and world.block().status == "awake"
    assert differences(expected, list_tree(world.workspace(woken["instance"]))) == []


def engines() -> list[psutil.Process]:
    """Engines that were started here and have not been waited for."""
    mine = psutil.Process().children()
    return [child for child in mine if child.status() == psutil.STATUS_ZOMBIE or "poorwill.engine" in child.cmdline()]


class EngineKillingStore(LocalStore):
    """Kills every engine when the second part is complete; once."""

    left = 2

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        super().complete_upload(key, upload_id, pieces, size)
        EngineKillingStore.left -= 1
        if EngineKillingStore.left == 0:
            for engine in engines():
                engine.kill()


def test_an_engine_killed_midway_is_started_again(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same flow run opens the machine again, adopts the finished parts, and ends equal."""
    monkeypatch.setattr(blocks.stores, "DirectoryStore", EngineKillingStore)
    EngineKillingStore.left = 2
    expected = list_tree(world.machine())
    done = hibernate(**world.hibernation(parts=PARTS))
    assert EngineKillingStore.left <= 0 and done["destroyed"] and engines() == []
    restore(world.store, SNAPSHOT_ID, tmp_path / "restored")
    assert differences(expected, list_tree(tmp_path / "restored")) == []


class ServerKillingStore(RetryingStore):
    """Kills the S3 server just before the second part's upload would be completed, and starts it again; once."""

    server: S3Server
    left = 2

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        ServerKillingStore.left -= 1
        if ServerKillingStore.left == 0:
            self.server.kill()
            self.server.start()
        super().complete_upload(key, upload_id, pieces, size)


def test_an_s3_server_killed_midway_forgets_its_uploads(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It comes back without the unfinished uploads: their parts start over within the same flow run."""
    with S3Server(tmp_path / "objects") as server:
        ServerKillingStore.server, ServerKillingStore.left = server, 2
        monkeypatch.setattr(blocks.stores, "RetryingStore", ServerKillingStore)
        keys = blocks.stores.AwsCredentials(
            aws_access_key_id=server.access_key, aws_secret_access_key=SecretStr(server.secret_key)
        )
        bucket = blocks.S3Store(bucket=server.bucket, endpoint=server.endpoint, credentials=keys)
        bucket.save(f"{world.name}-bucket")
        expected = list_tree(world.machine())
        done = hibernate(**world.hibernation(store=f"{world.name}-bucket", parts=PARTS))
        assert ServerKillingStore.left <= 0 and done["destroyed"]
        restore(bucket.open(), SNAPSHOT_ID, tmp_path / "restored")
        assert differences(expected, list_tree(tmp_path / "restored")) == []
