"""The program over a real Prefect server with a real worker: machines sleep and wake, runs are followed and left."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow, flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client

from deployments.servers.prefect_server import PrefectServer
from flows.generate import generate
from flows.hibernate import hibernate
from flows.replicate import replicate
from flows.wake import wake
from poorwill.cli.flow_arguments import FLOWS
from tests.support.flow_world import World
from tests.support.program import PROGRAM, Ran, environment, poorwill, start
from tests.worker.rig import Rig, until

_numbers = itertools.count()


@pytest.fixture(scope="module")
def rig(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One worker for the whole file. Hibernations have a process of their own, which a cancellation ends."""
    built = Rig(prefect_server, tmp_path_factory.mktemp("cli"), "cli")
    built.deploy(hibernate, gpus=0)
    built.deploy(wake)  # on a lane that stays warm, to spare some seconds
    built.worker()
    yield built
    built.close()


@pytest.fixture
def world(rig: Rig, tmp_path: Path) -> World:
    return World(rig.server, tmp_path, f"cli-{next(_numbers)}")


@pytest.fixture
def env(prefect_server: PrefectServer) -> dict[str, str]:
    return {"PREFECT_API_URL": prefect_server.api_url, "PREFECT_API_AUTH_STRING": "", "PREFECT_UI_URL": ""}


def named(ran: Ran, event: str) -> list[dict[str, Any]]:
    return [told for told in ran.events if told["event"] == event]


@pytest.mark.timeout(240)
def test_to_sleep_and_awake(world: World, env: dict[str, str]) -> None:
    """hibernate tells programs what it does, and at its end the figures; machines says that it sleeps; wake tells
    people; runs lists both."""
    world.machine()
    ran = poorwill("hibernate", world.name, "--store", world.store_name, "--json", env=env)
    assert ran.code == 0 and ran.err == "", ran.out[-2000:] + ran.err
    begun, done = ran.events[0], ran.done
    assert begun["event"] == "begun" and begun["machine"] == world.name
    assert begun["snapshot_id"] == done["snapshot_id"] == world.block().snapshot
    assert begun["page"] == f"{world.server.base_url}/runs/flow-run/{begun['run_id']}"
    assert [told["status"] for told in named(ran, "state")][-2:] == ["running", "done"]
    last = named(ran, "progress")[-1]
    assert last["measures"] == {"compressed": 100.0, "uploaded": 100.0}
    assert last["steps"]["pack_part"]["done"] == last["steps"]["pack_part"]["all"] == len(world.keys("parts/"))
    assert done["totals"]["files"] == 21 and done["raw_bytes"] > 30e6 and len(done["tables"]["parts"]) == done["parts"]

    (row,) = (r for r in named(poorwill("machines", "--json", env=env), "machine") if r["machine"] == world.name)
    assert (row["status"], row["instance"], row["snapshot"]) == ("asleep", "", done["snapshot_id"])
    assert row["provider"] == world.provider_name

    woken = poorwill("wake", f"latest:{world.name}", "--store", world.store_name, env=env)
    assert woken.code == 0, woken
    assert woken.out.startswith(f"{world.name} is awake as {world.block().instance}\n") and "data:" not in woken.out
    (line,) = woken.err.splitlines()
    assert line.startswith("poorwill: wake is run ") and "/runs/flow-run/" in line
    assert world.block().instance in poorwill("machines", env=env).out
    listed = {r["run_id"]: r for r in named(poorwill("runs", "--flow", "hibernate", "--json", env=env), "run")}
    assert listed[begun["run_id"]]["status"] == "done" and listed[begun["run_id"]]["flow"] == "hibernate"


def test_how_a_failed_run_ends(world: World, env: dict[str, str]) -> None:
    """The exit code of the error that the flow failed with, its message, and where to look further."""
    workspace = world.machine()
    with open(workspace / "5.txt", "ab"):
        written = ended(hibernate, world.hibernation())
    ran = poorwill("runs", "follow", written, env=env)
    assert ran.code == 6 and "5.txt open for writing" in ran.err and "--writers stop" in ran.err
    elsewhere = {"snapshot": "latest", "machine": "nobody", "store": world.store_name}
    refused = ended(hibernate, world.hibernation(verify="sample"))
    failed = ended(hibernate, world.hibernation(workspace="/none"))
    absent = ended(wake, elsewhere)
    ran = poorwill("runs", "follow", refused, env=env)
    said, page = ran.err.splitlines()
    assert ran.code == 6 and ran.out == "" and page.endswith(f"/runs/flow-run/{refused}")
    assert said.startswith("poorwill: verify='sample' is not enough to destroy")
    for run, code in ((refused, 6), (failed, 1), (absent, 5)):
        ran = poorwill("runs", "follow", run, "--json", env=env)
        error = ran.events[-1]
        assert (ran.code, error["event"], error["exit_code"]) == (code, "error", code)
        assert error["facts"]["run_id"] == run and ran.err == ""


def ended(called: Flow[..., Any], parameters: dict[str, Any]) -> str:
    """The id of a run of the flow in this process."""
    state: Any = called(**parameters, return_state=True)
    return str(state.state_details.flow_run_id)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hibernate", "{m}", "--parts", "33"], "33 is greater than the maximum of 32"),
        (["hibernate", "{m}", "--set", "portable=3"], "3 is not of type 'boolean'"),
        (["hibernate", "{m}", "--set", "colour=1"], "has no parameter 'colour'"),
        (["hibernate", "{m}", "--set", "parent=latest"], "is not JSON: a text is written --set 'parent=\"latest\"'"),
        (["hibernate", "{m}", "--parts", "3", "--set", "parts=4"], "--set parts: it is given already"),
        (["runs", "follow", "42"], "'42' is not the id of a run"),
        (["runs", "--limit", "0"], "--limit 0: expected 1 to 200"),
    ],
)
def test_mistakes_begin_nothing(rig: Rig, env: dict[str, str], arguments: list[str], says: str) -> None:
    """Exit code 2 with one line, the server's reason in it where the server refused; there is no new run."""
    before = rig.client.read_flow_runs(limit=200)
    ran = poorwill(*(argument.format(m="m") for argument in arguments), env=env)
    assert ran.code == 2 and ran.out == "", ran
    (line,) = ran.err.splitlines()
    assert line.startswith("poorwill: ") and says in line
    assert len(rig.client.read_flow_runs(limit=200)) == len(before)


def test_unknown_flows_and_runs(env: dict[str, str]) -> None:
    """Exit code 5: for a flow that is not deployed, with how to deploy it, and for an unknown run."""
    ran = poorwill("replicate", "latest:m", "--count", "2", env=env)
    assert ran.code == 5 and "replicate/poorwill is not deployed" in ran.err and "poorwill up" in ran.err
    unknown = poorwill("runs", "follow", "00000000-0000-4000-8000-000000000000", env=env)
    assert unknown.code == 5 and "Flow run not found" in unknown.err


@pytest.mark.timeout(180)
def test_leave_come_back_and_cancel(rig: Rig, world: World, env: dict[str, str]) -> None:
    """A run that was detached is followed; Ctrl-C leaves it going and says how to come back; a server that restarts
    does not end who follows; answered with yes, Ctrl-C cancels, and everybody who follows ends with 130."""
    world.machine()
    stays = ("--no-destroy", "--stop-command", "sleep 100")
    detached = poorwill("hibernate", world.name, "--store", world.store_name, *stays, "--detach", env=env)
    run = UUID(detached.out.strip())
    assert detached.code == 0
    again = ("hibernate", world.name, "--store", world.store_name, "--detach", "--json", "--idempotency-key", "once")
    waits = poorwill(*again, env=env).done["run_id"]
    assert poorwill(*again, env=env).done["run_id"] == waits

    left = start("runs", "follow", str(run), "--json", env=env)
    assert left.stdout is not None
    lines = iter(left.stdout.readline, b"")
    assert any(json.loads(line).get("step") == "run_command" for line in lines)
    left.send_signal(signal.SIGINT)
    out, err = left.communicate(timeout=30)
    last = json.loads(out.splitlines()[-1])
    assert left.returncode == last["exit_code"] == 130 and b"Traceback" not in err
    assert f"poorwill runs follow {run}" in last["hint"] and f"poorwill runs cancel {run}" in last["hint"]
    assert rig.state(run) == "RUNNING"

    follows = start("runs", "follow", str(run), "--json", env=env)
    assert follows.stdout is not None and json.loads(follows.stdout.readline())["status"] == "running"
    rig.server.kill()
    told = (json.loads(line)["event"] for line in iter(follows.stdout.readline, b""))
    assert "away" in told
    rig.server.start()

    assert poorwill("runs", "cancel", waits, env=env).code == 0 and rig.state(UUID(waits)) == "CANCELLED"
    code, screen = in_terminal(["runs", "follow", str(run)], env)
    assert code == 130 and f"run {run} goes on without this program. Cancel it? [y/N]" in screen
    assert "run_command" in screen and f"hibernate-{world.name}) was cancelled" in screen
    out, _ = follows.communicate(timeout=30)
    end = json.loads(out.splitlines()[-1])
    assert (follows.returncode, end["type"], rig.state(run)) == (130, "Cancelled", "CANCELLED")
    assert poorwill("runs", "cancel", str(run), env=env).code == 0, "to cancel twice is no mistake"


def in_terminal(arguments: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Run a command in a terminal, press Ctrl-C once its step is shown, and answer yes. Its exit code and screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment({**env, "COLUMNS": "200"}),
        start_new_session=True, preexec_fn=lambda: os.close(os.open(os.ttyname(1), os.O_RDWR)),
    )  # fmt: skip
    os.close(theirs)
    screen = b""
    answers = {b"run_command": b"\x03", b"[y/N]": b"y\n"}
    while True:
        try:
            screen += os.read(ours, 65536)
        except OSError:  # EIO: whoever had the other end is gone
            break
        for shown in [shown for shown in answers if shown in screen]:
            os.write(ours, answers.pop(shown))
    os.close(ours)
    return process.wait(30), screen.decode()


@flow(persist_result=False)
def leaves_behind() -> None:
    """Artifacts of each kind, as Poorwill's flows make them."""
    create_table_artifact(table=[{"left_out_count": 1, "raw_bytes": 7}], key="facts")
    create_table_artifact(table=[{"offer": "a", "$ per hour": 1.5}], key="offers", description="Offers")
    create_link_artifact("https://bucket.example/video.mp4?signature=1", link_text="video.mp4", key="video")
    create_markdown_artifact("# Nine frames\n\n![pictures](data:image/png;base64,AAAA)\n", key="contact-sheet")


def test_what_a_run_left_behind(env: dict[str, str], prefect_server: PrefectServer) -> None:
    """A run that is over is followed to its end at once: for programs its figures, tables and the video's URL, for
    people its report without pictures. What was left out is exit code 3."""
    run = ended(leaves_behind, {})
    ran = poorwill("runs", "follow", run, "--json", env=env)
    assert ran.code == 3 and ran.done["totals"] == {"left_out_count": 1, "raw_bytes": 7}
    assert ran.done["video"] == "https://bucket.example/video.mp4?signature=1"
    assert ran.done["tables"] == {"offers": [{"offer": "a", "$ per hour": 1.5}]}
    shown = poorwill("runs", "follow", run, env=env)
    assert shown.out == "Nine frames\n\nvideo: https://bucket.example/video.mp4?signature=1\n"


def test_parameters_are_the_flows() -> None:
    """Every flag is a parameter of its flow, by the same name, and every parameter has a flag."""
    for deployed in (hibernate, wake, replicate, generate):
        assert {p.name for p in FLOWS[deployed.name]} == set(inspect.signature(deployed.fn).parameters)


def test_the_server_is_still_there(prefect_server: PrefectServer) -> None:
    """What killed it above started it again, for the tests that come after."""
    with get_client(sync_client=True) as client:
        until(lambda: client.api_healthcheck() is None, "health of the server")
