"""The local stack as an operator uses it: commands in a shell, real servers in the background, kills in between."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.cli._app import _app
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from deployments import catalogue, prefect_yaml
from deployments.servers.daemon import Daemon, start_time
from deployments.servers.loopback import free_port
from tests.worker.rig import until

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 300.0
PARTS = ["s3", "prefect", "worker", "api"]
DIFFERENT = ("generate", "retention", "reap")
"""Of the other queue; with parameters, a strict limit and a schedule; with schedules that have parameters."""
UNSET = ("PREFECT_", "POORWILL_", "AWS_", "VAST_")


class Stack:
    """A stack in a folder of its own, on free ports, used through its command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = {f"POORWILL_{part.upper()}_PORT": str(free_port()) for part in PARTS}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(UNSET)}
        self.environment = {
            **kept,
            **ports,
            "POORWILL_STACK_DIR": str(folder),
            "POORWILL_PASSWORD": "a-password",
            "POORWILL_GPUS": "none",
            "POORWILL_CPU_SLOTS": "0",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            # Not the stand-in, which takes seconds to build.
            "POORWILL_MODEL_PIPELINE": "LTXImageToVideoPipeline",
            "POORWILL_MODEL_SOURCE": "/a/model",
        }

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deployments.stack", *arguments]
        return subprocess.run(
            command, cwd=REPOSITORY, env={**self.environment, **more}, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S,
        )  # fmt: skip

    def up(self) -> str:
        done = self.run("up")
        assert done.returncode == 0, done.stdout
        return done.stdout

    def parts(self) -> dict[str, dict[str, Any]]:
        said = self.run("status", "--json").stdout.splitlines()
        last = json.loads(said[-1])
        assert last["event"] == "done" and len(said) == len(last["parts"]) + 1
        return {part["name"]: part for part in last["parts"]}

    def addresses(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.folder / "stack.json").read_text())
        return found


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    started = Stack(tmp_path / "stack")
    yield started
    started.run("down", "--now")


def declared(client: SyncPrefectClient) -> dict[str, Any]:
    """All deployments, without the fields that differ from server to server."""
    changing = {"id", "created", "updated", "deployment_id", "anchor_date", "flow_id", "work_queue_id", "status"}
    changing |= {"concurrency_limit_id", "last_polled"}

    def steady(value: Any) -> Any:
        if isinstance(value, dict) and str(value.get("name")).startswith("deployment:"):
            return value["limit"]
        if isinstance(value, dict):
            return {key: steady(inner) for key, inner in value.items() if key not in changing}
        if isinstance(value, list):
            return sorted((steady(inner) for inner in value), key=str)
        return value

    return {
        client.read_flow(found.flow_id).name: steady(found.model_dump(mode="json"))
        for found in client.read_deployments()
    }


def planned(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """Its scheduled runs."""
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
        ),
    )


def deployed_by_prefect(client: SyncPrefectClient, file: Path) -> dict[str, Any]:
    """What Prefect's own command makes of those entries of prefect.yaml, where nothing is deployed. In this process,
    which has imported it already."""
    for found in client.read_deployments():
        client.delete_deployment(found.id)
    document = prefect_yaml.document()
    chosen = [entry for entry in document["deployments"] if entry["entrypoint"].rpartition(".")[2] in DIFFERENT]
    file.write_text(yaml.safe_dump({**document, "deployments": chosen}))
    try:
        _app.meta(["--no-prompt", "deploy", "--all", "--prefect-file", str(file)])
    except SystemExit as ended:
        assert ended.code in (None, 0)
    file.unlink()
    return declared(client)


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
def test_up_again_repair_down(stack: Stack) -> None:
    """One command starts and deploys everything. Again, it changes nothing, and what was switched on in the UI stays
    on, and has runs planned; `prefect deploy --all` with prefect.yaml would give the same deployments. After SIGKILL of
    server and worker it starts those two alone. `down` leaves no process, and keeps the data."""
    stack.up()
    first = stack.parts()
    assert list(first) == PARTS and {part["health"] for part in first.values()} == {"healthy"}
    secrets = ["stack.json", "api-tokens", "prefect-auth", "s3-keys.json"]
    assert {stat.S_IMODE((stack.folder / name).stat().st_mode) for name in secrets} == {0o600}
    addresses = stack.addresses()
    auth = Path(addresses["auth_string_file"]).read_text()
    server = {PREFECT_API_URL: addresses["api_url"], PREFECT_API_AUTH_STRING: auth}
    with temporary_settings(server), get_client(sync_client=True) as client:
        before = declared(client)
        assert set(before) == {deployment.flow_name for deployment in catalogue.CATALOGUE}
        reap = client.read_deployment_by_name("reap/poorwill")
        ids = {schedule.slug: schedule.id for schedule in reap.schedules}
        client.update_deployment_schedule(reap.id, ids["reap-vast-hourly"], active=True)
        assert "nothing was changed" in stack.up()
        until(lambda: planned(client, reap.id), "a run that the schedule has planned")

        for name in ("prefect", "worker"):
            os.kill(first[name]["pid"], signal.SIGKILL)
        stack.up()
        again = stack.parts()
        assert {part["health"] for part in again.values()} == {"healthy"}
        assert [name for name in PARTS if again[name]["pid"] != first[name]["pid"]] == ["prefect", "worker"]
        switched = {schedule.slug: schedule.active for schedule in client.read_deployment(reap.id).schedules}
        assert switched == {"reap-vast-hourly": True, "reap-ec2-hourly": False}
        assert deployed_by_prefect(client, stack.folder / "prefect.yaml") == {name: before[name] for name in DIFFERENT}

    assert stack.run("down").returncode == 0
    assert [name for name in PARTS if start_time(again[name]["pid"]) is not None] == []
    assert not (stack.folder / "stack.json").exists() and (stack.folder / "prefect" / "prefect.db").exists()
    assert stack.run("down", "--purge", "--yes").returncode == 0 and not stack.folder.exists()


def test_a_port_in_use_is_one_line(stack: Stack) -> None:
    """It names the port, the part that needs it and the variable that changes it; nothing was started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(stack.environment["POORWILL_API_PORT"])))
        taken.listen()
        done = stack.run("up")
    assert done.returncode == 6 and len(done.stdout.splitlines()) == 1
    assert "which api needs, is in use" in done.stdout and "POORWILL_API_PORT" in done.stdout
    assert not list(stack.folder.glob("run/*"))


def test_the_network_needs_a_password(stack: Stack) -> None:
    """A Prefect server runs whatever it is asked to: it is not bound to the network without one."""
    done = stack.run("up", POORWILL_BIND="0.0.0.0", POORWILL_PASSWORD="")
    assert done.returncode == 2 and "set POORWILL_PASSWORD too" in done.stdout


def test_a_folder_of_something_else_is_not_purged(stack: Stack) -> None:
    """The folder comes from the environment, and `logs` and `machines` are names that other programs use too."""
    (stack.folder / "logs").mkdir(parents=True)
    done = stack.run("down", "--purge", "--yes")
    assert done.returncode == 6 and "is not the folder of a stack" in done.stdout
    assert (stack.folder / "logs").is_dir()


def test_a_reused_pid_is_not_ours(tmp_path: Path) -> None:
    """A process with the same number that began at another time is neither reported nor ended."""
    sleeper = Daemon(tmp_path, "sleeper", ["/bin/sleep", "60"], {"A": "1"}, "127.0.0.1:1")
    sleeper.start()
    found = sleeper.running()
    try:
        assert found is not None and found.address == "127.0.0.1:1"
        assert not sleeper.is_outdated() and Daemon(tmp_path, "sleeper", ["/bin/sleep", "60"], {"A": "2"}).is_outdated()
        file = tmp_path / "run" / "sleeper.json"
        recorded = json.loads(file.read_text())
        file.write_text(json.dumps({**recorded, "began": f"{recorded['began']}1"}))
        assert sleeper.running() is None and not sleeper.signal(signal.SIGKILL)
        assert start_time(found.pid) is not None
        file.write_text(json.dumps(recorded))
    finally:
        sleeper.kill()
    assert sleeper.running() is None and start_time(found.pid) is None
