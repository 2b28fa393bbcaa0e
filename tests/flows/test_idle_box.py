"""A machine as people leave it, with programs that have files of the workspace open: it goes to sleep unattended and
comes back equal; and what keeps it awake is said wherever the user looks."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.states import Failed

from deployments.registration.gpu_pool import create_pool, deploy
from flows.autosleep import autosleep
from flows.hibernate import hibernate
from flows.wake import wake
from poorwill.runs import Failure
from tasks.events import MACHINE_IDLE
from tests.flows.test_autosleep import NARROW, WIDE, hibernations, waiting
from tests.support.flow_world import World
from tests.support.told_events import told
from tests.support.workspaces import make_large
from tests.support.writers import OPENS, writer

NOTEBOOK = """
import mmap, sqlite3, sys
base = sqlite3.connect("runs.db")
base.execute("pragma journal_mode=wal")
base.execute("create table runs (loss real)")
base.executemany("insert into runs values (?)", [(1 / n,) for n in range(1, 2000)])
base.commit()
with open("weights.bin", "r+b") as file:
    weights = mmap.mmap(file.fileno(), 0)
weights[:7] = b"trained"
print("ready", flush=True)
sys.stdin.read()
"""
SERVER = """
import http.server, signal, sys
log = open("server.log", "a", buffering=1)
def end(number, frame):
    log.write("last words\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
log.write(f"serving at {server.server_port}\\n")
print("ready", flush=True)
server.serve_forever()
"""


@contextmanager
def running(workspace: Path, program: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, cwd=workspace, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def contents(root: Path) -> dict[str, tuple[bytes, int, int]]:
    """Of every file: its bytes, mode and time."""
    files = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    return {name: (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns) for name, path in files.items()}


def linked(workspace: Path, beside: Path) -> Path:
    """The same files under other names: they show what was written last when the workspace is gone."""
    for path in (path for path in workspace.rglob("*") if path.is_file()):
        (beside / path.relative_to(workspace)).parent.mkdir(parents=True, exist_ok=True)
        (beside / path.relative_to(workspace)).hardlink_to(path)
    return beside


def deployed() -> None:
    create_pool("box-pool")  # without a worker: the test does what one would do
    deploy(hibernate, pool="box-pool")


def test_an_idle_box_sleeps_unattended_and_comes_back_equal(world: World, tmp_path: Path) -> None:
    """A notebook with an SQLite database in WAL mode and a mapped file, and a server with its log: by the defaults of
    autosleep they are ended, what they wrote until then is in the snapshot, and the machine goes."""
    deployed()
    workspace = world.machine(make_large)
    (workspace / "weights.bin").write_bytes(bytes(1 << 20))
    with running(workspace, NOTEBOOK) as notebook, running(workspace, SERVER) as server:
        left = linked(workspace, tmp_path / "left")
        assert (left / "runs.db-wal").stat().st_size > 0
        assert autosleep(**idle(world))["hibernating"] == [world.name]
        (run,) = hibernations(world)
        done = hibernate(**run.parameters)
        assert notebook.wait(10) != 0 and server.wait(10) == 0
    assert done["destroyed"] and not workspace.exists()

    woken = wake(done["snapshot_id"], world.store_name, provider=world.provider_name, machine=world.name)
    back = world.workspace(woken["instance"])
    assert contents(back) == contents(left)
    assert (back / "server.log").read_text().endswith("last words\n")
    assert (back / "weights.bin").read_bytes()[:7] == b"trained"
    with sqlite3.connect(back / "runs.db") as base:
        assert base.execute("select count(*) from runs").fetchone() == (1999,)
        assert base.execute("pragma integrity_check").fetchone() == ("ok",)


def test_who_keeps_a_machine_awake_is_said(world: World) -> None:
    """In the flow's error, which is what the API and the command line show: the process, the file, and in each one's
    spelling how to go on. Ended first, or ignored, the machine goes."""
    workspace = world.machine(make_large)
    with ExitStack() as open_ones:
        process, *_ = [open_ones.enter_context(writer(OPENS, workspace / f"{n}.txt")) for n in range(6)]
        state = hibernate(**world.hibernation(), return_state=True)
        failure = Failure.of_state("FAILED", state.message)
        assert failure.type == "Refused" and rf"(pid {process.pid}: " in failure.message
        for way in ("stop", "ignore"):
            assert (
                f'writers="{way}" (in the API "writers": "{way}", on the command line --writers {way})'
                in failure.message
            )
        assert world.provider.exists(world.block().instance)
        assert hibernate(**world.hibernation(writers="ignore"))["destroyed"]


def test_a_refused_autosleep_is_told_once(world: World) -> None:
    """With the command that insists, and no more until the machine has been used again."""
    deployed()
    workspace, asked = world.machine(make_large), idle(world)
    with open(workspace / "5.txt", "ab"):  # by this process, which is never signalled
        refused = hibernate(**world.hibernation(writers="stop"), return_state=True)

    def refuse_and_look() -> str:
        (run,) = [run for run in hibernations(world) if run.state is not None and not run.state.is_final()]
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run.id, Failed(message=refused.message), force=True)
        (row,) = autosleep(**asked)["machines"]
        return str(row["done"])

    waiting(world, world.block().instance)
    assert "ended as Failed: Refused" in refuse_and_look()
    for _ in range(2):
        assert autosleep(**asked)["hibernating"] == [world.name]
        assert "ended as Failed: Refused" in refuse_and_look()
    autosleep(**{**asked, **NARROW})
    assert autosleep(**asked)["hibernating"] == [world.name]
    refuse_and_look()
    again, began, first = (payload["message"] for payload in told(MACHINE_IDLE, "machine", world.name, count=3))
    command = f"poorwill hibernate {world.name} --store {world.store_name} --workspace /workspace --writers ignore"
    assert "was started" in began and again.endswith(f"by hand: {command}") and first.endswith(f"by hand: {command}")
    assert "5.txt open for writing" in first


def idle(world: World) -> dict[str, Any]:
    return {"store": world.store_name, "machine": world.name, "idle": "0s", "dry_run": False, **WIDE}
