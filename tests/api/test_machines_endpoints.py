"""The endpoints of machines and snapshots on a real Prefect server and store. No worker takes the runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client

import blocks
from api.machines.blocks import block_name
from deployments.registration.gpu_pool import create_pool, deploy
from deployments.servers.prefect_server import PrefectServer
from flows.hibernate import hibernate
from flows.snapshot import snapshot
from flows.wake import wake
from poorwill.providers.base import Wish
from poorwill.providers.local import LocalProvider
from poorwill.remote.host_key import fingerprint
from tests.support import runs
from tests.support.machines_gateway import MachinesGateway
from tests.support.ssh_machines import KeyPair
from tests.support.workspaces import noise

NOWHERE = "20250101T000000Z-00000000"


@pytest.fixture(scope="module")
def deployed(prefect_server: PrefectServer) -> None:
    create_pool()
    for each in (snapshot, hibernate, wake):
        deploy(each)


@pytest.fixture(scope="module")
def shared(deployed: None, tmp_path_factory: pytest.TempPathFactory, ssh_keys: KeyPair) -> MachinesGateway:
    return MachinesGateway(tmp_path_factory.mktemp("gateway"), ssh_keys)


@pytest.fixture
def gateway(shared: MachinesGateway) -> MachinesGateway:
    """Blocks that all tests here share, and names that no other test uses."""
    shared.renew()
    return shared


def parameters_of(run_id: str) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        return dict(client.read_flow_run(run_id).parameters)  # type: ignore[arg-type]


def detail(answer: httpx.Response, status: int, kind: str) -> str:
    """The detail of a problem of that kind."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"https://poorwill.dev/problems/{kind}"
    return str(answer.json()["detail"])


def test_a_new_machine(gateway: MachinesGateway) -> None:
    """An unknown machine gets a block of its own, with the default provider's key; the run is told where it is
    followed, and the snapshot's id is known at once."""

    async def calls(client: httpx.AsyncClient) -> None:
        asked = {"instance_id": f"{gateway.name}:31337", **gateway.address, "workspace_path": "/root/work"}
        answer = await client.post("/api/gpu-snapshots/create", json=asked)
        told = answer.json()
        assert (answer.status_code, told["status"]) == (202, "queued")
        assert answer.headers["location"] == told["follow"]["run"] == f"/runs/{told['run_id']}"
        assert (await client.get(told["follow"]["run"])).json()["snapshot_id"] == told["snapshot_id"]
        given = parameters_of(told["run_id"])
        assert given == {
            "machine": told["machine"], "store": gateway.store_name, "workspace": "/root/work",
            "snapshot_id": told["snapshot_id"],
        }  # fmt: skip
        shown = (await client.get(f"/api/instances/{gateway.name}:31337")).json()
        assert (shown["id"], shown["status"], shown["host_key"]) == (told["machine"], "awake", None)
        made = await asyncio.to_thread(blocks.Machine.load, told["machine"])
        assert (made.instance, made.ssh_host, made.ssh_port) == (f"{gateway.name}:31337", *gateway.address.values())
        assert "PRIVATE KEY" in made.identity().private_key

    gateway.run(calls)


def test_a_repeated_request(gateway: MachinesGateway) -> None:
    """The same key answers the same run and the same snapshot id, at once and by another process, also when the
    machine is gone meanwhile; the same key for another machine or another body is a conflict."""
    asked = {"instance_id": f"{gateway.name}.1", **gateway.address}
    key = {"Idempotency-Key": "monday"}

    async def first(client: httpx.AsyncClient) -> None:
        path = "/api/gpu-snapshots/create"
        told = [answer.json() for answer in await asyncio.gather(
            *(client.post(path, json=asked, headers=key) for _ in range(4))
        )]  # fmt: skip
        assert len({(one["run_id"], one["snapshot_id"], one["machine"]) for one in told}) == 1
        block = await asyncio.to_thread(blocks.Machine.load, told[0]["machine"])
        block.instance, block.status = "", "asleep"
        await asyncio.to_thread(block.save, told[0]["machine"], overwrite=True)
        async with gateway.client() as other:
            again = (await other.post(path, json=asked, headers=key)).json()
            assert (again["run_id"], again["snapshot_id"]) == (told[0]["run_id"], told[0]["snapshot_id"])
            elsewhere = await other.post(path, json={**asked, "workspace_path": "/other"}, headers=key)
            assert "used with another request" in detail(elsewhere, 409, "conflict")
            another = await other.post(path, json={**asked, "instance_id": f"{gateway.name}.2"}, headers=key)
            assert "used with another request" in detail(another, 409, "conflict")

    gateway.run(first)


def test_a_machine_that_moved(gateway: MachinesGateway, ssh_keys: KeyPair) -> None:
    """A known machine may change its address, and keeps its pinned key; one whose instance is gone begins without,
    and a key that the client states is taken."""
    old, new = KeyPair.generate().public, KeyPair.generate().public
    own = blocks.OwnMachines.load(gateway.own_name)
    name = f"{gateway.name}-box"
    blocks.Machine(provider=own, instance="i-1", ssh_host="192.0.2.1", host_key=old).save(name)

    async def calls(client: httpx.AsyncClient) -> None:
        async def shown(**other: Any) -> dict[str, Any]:
            await client.post(f"/api/instances/{name}/hibernate", json=other)
            return dict((await client.get(f"/api/instances/{name}")).json())

        moved = await shown(**gateway.address, ssh_user="ubuntu")
        assert (moved["ssh_host"], moved["ssh_port"], moved["ssh_user"]) == (*gateway.address.values(), "ubuntu")
        assert moved["host_key"] == {"fingerprint": fingerprint(old), "line": old}
        stated = await shown(**gateway.address, host_key=new)
        assert stated["host_key"]["line"] == new and stated["instance_id"] == "i-1"
        asleep = await asyncio.to_thread(blocks.Machine.load, name)
        asleep.instance, asleep.status, asleep.snapshot = "", "asleep", NOWHERE
        await asyncio.to_thread(asleep.save, name, overwrite=True)
        told = await client.post(f"/api/instances/{name}/hibernate", json={})
        assert f"asleep in snapshot {NOWHERE}: wake it first" in detail(told, 409, "conflict")
        again = await shown(ssh_host="192.0.2.8")
        assert (again["status"], again["instance_id"], again["host_key"]) == ("awake", name, None)

    gateway.run(calls)


def test_an_ambiguous_id(gateway: MachinesGateway) -> None:
    """An id of two machines is a conflict, also with its provider's block; the blocks' own names are not."""
    own = blocks.OwnMachines.load(gateway.own_name)
    for number in (1, 2):
        blocks.Machine(provider=own, instance=f"{gateway.name}:twin", ssh_host="192.0.2.9").save(
            f"{gateway.name}-twin-{number}"
        )

    async def calls(client: httpx.AsyncClient) -> None:
        twins = await client.post(f"/api/instances/{gateway.name}:twin/hibernate", json=gateway.address)
        assert f"{gateway.name}-twin-1, {gateway.name}-twin-2" in detail(twins, 409, "conflict")
        named = (await client.get(f"/api/instances/{gateway.own_name}:{gateway.name}:twin")).status_code
        assert named == 409
        assert (await client.get(f"/api/instances/{gateway.name}-twin-2")).json()[
            "instance_id"
        ] == f"{gateway.name}:twin"

    gateway.run(calls)


def test_machines_that_can_be_destroyed(gateway: MachinesGateway, tmp_path: Path) -> None:
    """destroy_after needs a provider that can destroy: else no block and no run are created. A provider that is named
    by its block is asked whether it has such a machine."""
    provider = f"{gateway.name}-dirs"
    blocks.LocalProvider(root=str(tmp_path / "machines")).save(provider)
    instance = LocalProvider(tmp_path / "machines").create("by-hand", Wish()).id

    async def calls(client: httpx.AsyncClient) -> None:
        own = await client.post("/api/instances/mine:1/hibernate", json={**gateway.address, "destroy_after": True})
        assert "is one of your own" in detail(own, 422, "invalid-request")
        assert (await client.get("/api/instances/mine:1")).status_code == 404
        gone = await client.post(f"/api/instances/{provider}:local-000000000000/hibernate", json={})
        assert "has no instance local-000000000000" in detail(gone, 404, "not-found")
        path = f"/api/instances/{provider}:{instance}"
        assert "leave it out" in detail(
            await client.post(f"{path}/hibernate", json=gateway.address), 422, "invalid-request"
        )
        told = (await client.post(f"{path}/hibernate", json={"destroy_after": True})).json()
        assert parameters_of(told["run_id"])["destroy"] is True
        shown = (await client.get(path)).json()
        assert (shown["provider"], shown["instance_id"], shown["price_per_hour"]) == (provider, instance, 0.0)

    gateway.run(calls)


def test_waking(gateway: MachinesGateway, tmp_path: Path) -> None:
    """A machine is woken on one that is rented by a provider that can, or on one that exists, from the snapshot that
    is named or the one it sleeps in; what contradicts that begins nothing."""
    (tmp_path / "workspace").mkdir()
    taken = runs.take(gateway.store, tmp_path / "workspace").id
    provider = f"{gateway.name}-dirs"
    blocks.LocalProvider(root=str(tmp_path / "machines")).save(provider)

    async def calls(client: httpx.AsyncClient) -> None:
        async def wake(name: str, **asked: Any) -> httpx.Response:
            return await client.post(f"/api/instances/{name}/wake", json=asked)

        rented = (await wake(f"{provider}:new", snapshot_id=taken, gpu_type="RTX 4090", region="DE")).json()
        given = parameters_of(rented["run_id"])
        assert (given["machine"], given["gpu"], given["region"]) == (rented["machine"], "RTX 4090", "DE")
        assert rented["snapshot_id"] == taken == given["snapshot"]
        asleep = (await client.get(f"/api/instances/{provider}:new")).json()
        assert (asleep["status"], asleep["instance_id"], asleep["provider"]) == ("asleep", None, provider)

        existing = (await wake(f"{gateway.name}.1", snapshot_id=taken, **gateway.address)).json()
        assert parameters_of(existing["run_id"])["machine"] == existing["machine"] == block_name(f"{gateway.name}.1")
        restored = await client.post(f"/api/gpu-snapshots/{taken}/restore", json=gateway.address)
        assert restored.json()["machine"] == existing["machine"]  # it is the one at that address

        both = await wake(f"{gateway.name}.2", snapshot_id=taken, **gateway.address, gpu_type="H100")
        assert "either ssh_host" in detail(both, 422, "invalid-request")
        assert "is awake as instance" in detail(await wake(f"{gateway.name}.1", snapshot_id=taken), 409, "conflict")
        assert "none to rent" in detail(await wake(f"{gateway.name}.3", snapshot_id=taken), 422, "invalid-request")
        assert "does not exist" in detail(await wake(f"{gateway.name}.3", snapshot_id=NOWHERE), 404, "not-found")
        unsaid = await wake(f"{provider}:new2")
        assert "has not slept yet" in detail(unsaid, 422, "invalid-request")
        assert (await client.get(f"/api/instances/{provider}:new2")).status_code == 404

    async def by_address(client: httpx.AsyncClient) -> None:
        elsewhere = {**gateway.address, "ssh_host": "198.51.100.7"}
        told = (await client.post(f"/api/gpu-snapshots/{taken}/restore", json=elsewhere)).json()
        shown = (await client.get(f"/api/instances/{told['machine']}")).json()
        assert (shown["provider"], shown["instance_id"]) == ("own", "198.51.100.7:{ssh_port}".format(**elsewhere))

    gateway.run(calls)
    blocks.OwnMachines().save("own", overwrite=True)
    gateway.run(by_address, provider=provider)


def test_invalid_requests(gateway: MachinesGateway) -> None:
    """The wrong field is named, and nothing is created."""

    async def calls(client: httpx.AsyncClient) -> None:
        path = f"/api/instances/{gateway.name}.1"
        for asked, field in (({"ssh_host": "-oProxyCommand=id"}, "ssh_host"), ({"destroy_afer": True}, "destroy_afer")):
            answer = await client.post(f"{path}/hibernate", json={**gateway.address, **asked})
            detail(answer, 422, "invalid-request")
            assert [one["field"] for one in answer.json()["errors"]] == [field]
        detail(await client.post("/api/instances/-x/hibernate", json=gateway.address), 422, "invalid-request")
        detail(await client.post(f"/api/gpu-snapshots/{NOWHERE}/restore", json={}), 422, "invalid-request")
        assert (await client.get(path)).status_code == 404

    gateway.run(calls)


def test_the_list_of_snapshots(deployed: None, tmp_path: Path, ssh_keys: KeyPair) -> None:
    """Newest first, in pages without gaps or repetition, with sizes; a damaged one is shown as such among them."""
    gateway, workspace = MachinesGateway(tmp_path, ssh_keys), tmp_path / "workspace"
    workspace.mkdir()
    taken = []
    for number in range(5):
        (workspace / f"file-{number}").write_bytes(noise(3000, number))
        machine = "even" if number % 2 == 0 else "odd"
        named = f"2026010{number + 1}T000000Z-0000000{number}"
        taken.append(runs.take(gateway.store, workspace, named, machine=machine))
    runs.verify(gateway.store, taken[4].id)
    damaged = "20260109T000000Z-00000009"
    gateway.store.put(f"snapshots/odd/{damaged}.json", b"{}")

    async def calls(client: httpx.AsyncClient) -> None:
        path, seen = "/api/gpu-snapshots?limit=2", []
        pages, before = 0, ""
        while before is not None and pages < 9:
            page = (await client.get(path + (f"&before={before}" if before else ""))).json()
            seen += page["snapshots"]
            pages, before = pages + 1, page["next_before"]
        assert pages == 3
        assert [one["id"] for one in seen] == [damaged, *(one.id for one in reversed(taken))]
        assert "its checksum is" in seen[0]["problem"] and seen[1]["problem"] is None
        newest = seen[1]
        assert (newest["files"], newest["data_bytes"], newest["machine"]) == (5, 15_000, "even")
        assert newest["verified"] and newest["verified_at"] and not seen[2]["verified"]
        even = (await client.get("/api/gpu-snapshots?instance_id=even")).json()["snapshots"]
        assert [one["id"] for one in even] == [taken[4].id, taken[2].id, taken[0].id]
        assert (await client.get("/api/gpu-snapshots?instance_id=nobody")).json()["snapshots"] == []
        assert (await client.get(f"/api/gpu-snapshots/{taken[4].id}")).json() == newest
        detail(await client.get(f"/api/gpu-snapshots/{NOWHERE}"), 404, "not-found")
        detail(await client.get("/api/gpu-snapshots?before=x"), 422, "invalid-request")
        gateway.store.delete(f"snapshots/even/{taken[4].id}.json")
        even = (await client.get("/api/gpu-snapshots?instance_id=even")).json()["snapshots"]
        assert [one["id"] for one in even] == [taken[2].id, taken[0].id]  # what is remembered is not what there is

    gateway.run(calls)


def test_metrics(gateway: MachinesGateway, tmp_path: Path) -> None:
    """Gauges of every source, the gateway's own requests by route, and a source that cannot be asked leaves the
    others. A token is needed, unless the operator has switched that off."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "file").write_bytes(noise(1000))
    runs.take(gateway.store, workspace, machine="metered")

    async def calls(client: httpx.AsyncClient) -> None:
        await client.post("/api/gpu-snapshots/create", json={"instance_id": "metered", **gateway.address})
        text = (await client.get("/metrics")).text
        sources = ("runs", "queues", "stages", "store", "machines")
        for line in (
            'poorwill_snapshots{machine="metered"} 1.0',
            'poorwill_snapshot_data_bytes{machine="metered"} 1000.0',
            'poorwill_queue_depth{queue="control"}',
            'poorwill_runs{flow="snapshot",state="scheduled"}',
            'poorwill_machines{provider="own-machines",status="awake"}',
            f'{{method="POST",process="{os.getpid()}",route="/api/gpu-snapshots/create",status="202"}} 1.0',
            *(f'poorwill_source_up{{source="{name}"}} 1.0' for name in sources),
        ):
            assert line in text, line
        detail(await client.get("/metrics", headers={"Authorization": "Bearer no"}), 401, "unauthorized")

    async def open_one(client: httpx.AsyncClient) -> None:
        text = (await client.get("/metrics", headers={"Authorization": ""})).text
        up = {name: f'poorwill_source_up{{source="{name}"}} ' for name in ("runs", "queues", "store", "machines")}
        assert up["runs"] + "1.0" in text and up["store"] + "0.0" in text and up["machines"] + "0.0" in text

    gateway.run(calls)
    gateway.run(open_one, metrics_open=True, store="there-is-none")


def test_a_store_that_is_not_there(gateway: MachinesGateway) -> None:
    """Requests that need the store get a problem of one line; machines are shown without their prices."""

    async def calls(client: httpx.AsyncClient) -> None:
        assert "there-is-none" in detail(await client.get("/api/gpu-snapshots"), 404, "not-found")
        assert (await client.get("/api/instances")).status_code == 200

    gateway.run(calls, store="there-is-none")
