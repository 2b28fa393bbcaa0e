"""The whole life of a machine over HTTP alone: a worker takes the runs, the machines are reached over real SSH."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.demo.tree_listing import differences, list_tree
from deployments.servers.prefect_server import PrefectServer
from deployments.servers.s3_server import S3Server
from flows.delete import delete
from flows.hibernate import hibernate
from flows.snapshot import snapshot
from flows.wake import wake
from poorwill.remote.host_key import fingerprint
from tests.flows.test_hibernate_and_wake import everything
from tests.support.engine_homes import EngineHome
from tests.support.machines_gateway import MachinesGateway
from tests.support.ssh_machines import KeyPair, SshMachine
from tests.worker.rig import Rig

PATIENCE_S = 60


@pytest.mark.timeout(240)
def test_a_machine_from_its_first_snapshot_to_the_last(
    prefect_server: PrefectServer, rent: Callable[..., SshMachine], ssh_keys: KeyPair, engine_home: EngineHome,
    s3_server: S3Server, tmp_path: Path,
) -> None:  # fmt: skip
    """A machine that is known by its address alone is snapshotted, listed, hibernated without being destroyed, and
    restored onto another machine: equal trees, host keys recorded and shown, and the snapshot gone in the end."""
    homes = [engine_home.copy_to(tmp_path / name) for name in ("first", "second")]
    first, second = (rent(home=home) for home in homes)
    everything(first.home / "workspace")
    rig = Rig(prefect_server, tmp_path, "gateway")
    gateway = MachinesGateway(tmp_path, ssh_keys, rig.pool, s3_server)
    try:
        for each in (snapshot, hibernate, wake, delete):
            rig.deploy(each)  # on a lane that stays warm: a process of its own for each run would cost seconds
        rig.worker()
        gateway.run(lambda client: _life(client, first, second), wait_s_max=PATIENCE_S)
    finally:
        rig.close()


def _address(machine: SshMachine) -> dict[str, object]:
    named = {"ssh_host": machine.host, "ssh_port": machine.port, "ssh_user": machine.user}
    return {**named, "workspace_path": _workspace(machine)}


def _workspace(machine: SshMachine) -> str:
    return str(machine.home / "workspace")


async def _life(client: httpx.AsyncClient, first: SshMachine, second: SshMachine) -> None:
    expected = list_tree(first.home / "workspace")
    named = {"snapshot_name": "before training", "tags": ["keep", "v1"]}
    taken = await _done(client, "/api/gpu-snapshots/create", {"instance_id": "rack-7:3", **_address(first), **named})
    assert taken["host_key"] == {"fingerprint": fingerprint(first.host_key), "line": first.host_key}

    slept = await _done(client, "/api/instances/rack-7:3/hibernate", {"workspace_path": _workspace(first)})
    assert slept["machine"] == taken["machine"]
    listed = (await client.get("/api/gpu-snapshots?instance_id=rack-7:3")).json()["snapshots"]
    assert [one["id"] for one in listed] == [slept["snapshot_id"], taken["snapshot_id"]]
    assert [(one["verified"], one["instance_id"], one["parent"]) for one in listed] == [
        (True, "rack-7:3", taken["snapshot_id"]), (True, "rack-7:3", None)
    ]  # fmt: skip
    assert (listed[1]["name"], listed[1]["tags"]) == ("before training", ["keep", "v1"])
    assert listed[1]["ratio"] > 1 > listed[0]["sent_bytes"] / listed[1]["sent_bytes"]

    restored = await _done(client, f"/api/gpu-snapshots/{slept['snapshot_id']}/restore", _address(second))
    assert differences(expected, list_tree(second.home / "workspace")) == []
    shown = (await client.get("/api/instances?limit=2000")).json()["instances"]
    keys = {one["id"]: one["host_key"] for one in shown}
    assert keys[taken["machine"]]["fingerprint"] == fingerprint(first.host_key)
    assert keys[restored["machine"]]["fingerprint"] == fingerprint(second.host_key)

    gauges = (await client.get("/metrics")).text
    assert f'poorwill_snapshots{{machine="{taken["machine"]}"}} 2.0' in gauges
    assert 'poorwill_stage_seconds{stage="pack_part"}' in gauges and 'poorwill_workers{status="online"} 1.0' in gauges

    deleted = f"/api/gpu-snapshots/{slept['snapshot_id']}"
    await _done(client, deleted, None, "DELETE")
    assert (await client.get(deleted)).status_code == 404
    left = (await client.get("/api/gpu-snapshots?instance_id=rack-7:3")).json()["snapshots"]
    assert [one["id"] for one in left] == [taken["snapshot_id"]]

    asked = await client.post(f"/api/instances/rack-7:3/hibernate?wait={PATIENCE_S}", json=_address(second))
    assert (asked.json()["status"], asked.json()["error"]["type"]) == ("failed", "HostRefused")
    assert "is not the machine it was" in asked.json()["error"]["message"]
    assert asked.json()["host_key"]["line"] == first.host_key


async def _done(
    client: httpx.AsyncClient, path: str, asked: dict[str, object] | None, method: str = "POST"
) -> dict[str, Any]:
    """The answer once the run is over."""
    answer = await client.request(method, f"{path}?wait={PATIENCE_S}", json=asked)
    assert (answer.status_code, answer.json().get("status")) == (200, "done"), answer.text
    return dict(answer.json())
