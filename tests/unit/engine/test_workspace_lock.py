"""One engine at a time works in a workspace: who holds it, who is ended, and what is said."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.engine.machine import processes
from poorwill.engine.machine.control_side import LOOK_EVERY_S, writes_to
from poorwill.engine.machine.holder import Holder, HolderNote
from poorwill.engine.machine.workspace_lock import WorkspaceLock
from poorwill.engine.protocol.context import Context
from poorwill.errors import Cancelled, Refused, WorkspaceError
from poorwill.file_lock import FileLock, lock_directory
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost, WatchedHost
from tests.support.runs import order, restore, take
from tests.support.workspaces import aged, make_large


def context() -> Context:
    return Context("test", 60.0)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return aged(make_large(tmp_path / "w", 1))


@pytest.fixture
def sessions() -> Iterator[Callable[[], tuple[EngineSession, WatchedHost]]]:
    """Each call starts an engine process; all end with the test."""
    started: list[tuple[EngineSession, WatchedHost]] = []

    def start() -> tuple[EngineSession, WatchedHost]:
        host = WatchedHost()
        started.append((EngineSession(host), host))
        return started[-1]

    yield start
    for session, host in started:
        host.channel.process.kill()
        session.close()


def scan(store: LocalStore, session: EngineSession, workspace: Path) -> SnapshotRun:
    run = SnapshotRun(store, session, order(workspace))
    run.open()
    run.scan()
    return run


def test_a_living_holder_is_named(local_store: LocalStore, workspace: Path, tmp_path: Path, sessions: Any) -> None:
    """By its process, for what, since when, and for whom it works; it goes on undisturbed."""
    session, host = sessions()
    run = scan(local_store, session, workspace)
    pid = host.channel.process.pid
    named = rf"another engine works there, process {pid} \(snapshot, since 20.*Z\) of process {os.getpid()}: .*python"
    with pytest.raises(Refused, match=named) as refused:
        take(local_store, workspace)
    assert refused.value.exit_code == 6 and "nothing was done there" in refused.value.message
    with pytest.raises(Refused, match=named):
        restore(local_store, take(local_store, tmp_path / "state").id, workspace, overwrite=True)
    for number in list(run.planned):
        run.pack_part(number)
    run.settle()
    run.write_metadata()
    take(local_store, workspace)  # once it has read all that it will read, others may


def test_a_stopped_engine_that_nobody_waits_for_is_ended(
    local_store: LocalStore, workspace: Path, sessions: Any
) -> None:
    """Its control side lives, but has closed the pipe: it would notice, were it not stopped."""
    session, host = sessions()
    scan(local_store, session, workspace)
    process = host.channel.process
    process.send_signal(signal.SIGSTOP)
    host.channel.requests.close()
    take(local_store, workspace)
    assert process.wait(10) == -signal.SIGKILL


def test_a_stopped_engine_that_somebody_waits_for_is_not(
    local_store: LocalStore, workspace: Path, sessions: Any
) -> None:
    """It may be let go again: it is named instead."""
    session, host = sessions()
    scan(local_store, session, workspace)
    host.channel.process.send_signal(signal.SIGSTOP)
    with pytest.raises(Refused, match=f"process {host.channel.process.pid}"):
        take(local_store, workspace)
    assert host.channel.process.poll() is None


CONTROL = """
import subprocess, sys, time
engine = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], stdin=subprocess.PIPE)
print(engine.pid, flush=True)
time.sleep(600)
"""
ENGINE = """
import os, sys, time
from poorwill.engine.machine.control_side import ControlSide
from poorwill.engine.machine.workspace_lock import WorkspaceLock
from poorwill.engine.protocol.context import Context
control = ControlSide(0, os.getppid())
WorkspaceLock(control).take(sys.argv[1], "restore", Context("test"))
print("taken", flush=True)
time.sleep(600)
"""


def test_an_engine_whose_control_side_was_killed_is_ended(tmp_path: Path) -> None:
    """Also one that hangs and never looks at its input."""
    workspace = tmp_path / "w"
    workspace.mkdir()
    command = [sys.executable, "-c", CONTROL, ENGINE, str(workspace)]
    control = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert control.stdout is not None
        engine = int(control.stdout.readline())
        assert control.stdout.readline() == "taken\n"
        ours, born = WorkspaceLock(patience_s=0.2), processes.born(Path("/"), engine)
        with pytest.raises(Refused, match=f"process {engine} .* of process {control.pid}"):
            ours.take(str(workspace), "snapshot", context())
    finally:
        control.kill()
        control.wait()
    ours.take(str(workspace), "snapshot", context())
    assert not processes.runs(Path("/"), engine, born)
    ours.release()


def test_a_holder_that_left_no_note(tmp_path: Path) -> None:
    """As a program of somebody else's: it is said how to find it, and it is not touched."""
    held = lock_directory(tmp_path)
    assert held is not None
    with held, pytest.raises(Refused, match=f"another process has locked the directory.*fuser -v {tmp_path}"):
        WorkspaceLock(patience_s=0.1).take(str(tmp_path), "snapshot", context())


def test_a_holder_on_another_machine_is_named_and_never_ended(tmp_path: Path) -> None:
    """Where the state directory is shared, a process of the same number here is another one."""
    held = lock_directory(tmp_path)
    assert held is not None
    with subprocess.Popen(["sleep", "30"]) as bystander, held:
        mine = Holder.of_this_process("restore", None)
        theirs = mine._replace(pid=bystander.pid, control=1 << 22, place="far-away boot pids")
        HolderNote(os.fsencode(tmp_path)).write(theirs)
        with pytest.raises(Refused, match=f"process {bystander.pid} .* of far-away, seen from elsewhere"):
            WorkspaceLock(patience_s=0.1).take(str(tmp_path), "snapshot", context())
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks(tmp_path: Path, number: int) -> None:
    """That is said, and the note alone tells who works there."""

    def lock(root: bytes) -> FileLock | None:
        raise OSError(number, os.strerror(number))

    ours = WorkspaceLock(lock=lock, patience_s=0.1)
    with subprocess.Popen(["sleep", "30"]) as other:
        note = HolderNote(os.fsencode(tmp_path))
        born = Path(f"/proc/{other.pid}/stat").read_text().split()[21]
        note.write(Holder.of_this_process("restore", None)._replace(pid=other.pid, born=born, control=0))
        with pytest.raises(Refused, match=f"another engine works there, process {other.pid}"):
            ours.take(str(tmp_path), "snapshot", context())
        other.kill()
        other.wait()
        ours.take(str(tmp_path), "snapshot", context())
    (warning,) = ours.warnings
    assert "its file system has no locks" in warning and "nothing keeps engines of other machines" in warning
    assert (found := note.read()) is not None and found.pid == os.getpid()
    ours.release()
    assert note.read() is None


def test_another_error_of_the_lock(tmp_path: Path) -> None:
    """A directory that is not there, or may not be read, is named."""
    with pytest.raises(WorkspaceError, match=r"nowhere: No such file or directory: nothing was read or written there"):
        WorkspaceLock().take(str(tmp_path / "nowhere"), "snapshot", context())


def test_the_same_engine_keeps_it_and_a_child_never_has_it(tmp_path: Path) -> None:
    """By whatever name; another workspace is another lock, and what runs beside the engine keeps none."""
    first, second, alias = tmp_path / "1", tmp_path / "2", tmp_path / "alias"
    first.mkdir(), second.mkdir(), alias.symlink_to(first)
    ours = WorkspaceLock()
    ours.take(str(first), "restore", context())
    ours.take(str(alias), "restore", context())
    assert lock_directory(first) is None
    with subprocess.Popen(["sleep", "30"], close_fds=False) as child:
        ours.take(str(second), "snapshot", context())
        for folder, free in ((first, True), (second, False)):
            found = lock_directory(folder)
            assert (found is not None) == free
            if found is not None:
                found.close()
        with ours.during(str(second), "look", context()):
            pass
        assert lock_directory(second) is None  # it was held before, and is
        ours.release()
        with ours.during(str(second), "look", context()):
            assert lock_directory(second) is None
        with lock_directory(second):  # type: ignore[union-attr]
            pass
        child.kill()


def test_no_file_enters_the_workspace_and_the_note_is_the_owners(
    local_store: LocalStore, workspace: Path, state_dir: Path, sessions: Any
) -> None:
    """Mode 0600, in the engine's state, for as long as it works."""
    before = sorted(workspace.iterdir())
    run = scan(local_store, sessions()[0], workspace)
    (note,) = state_dir.glob("working-*.json")
    assert note.stat().st_mode & 0o777 == 0o600 and json.loads(note.read_text())["doing"] == "snapshot"
    assert sorted(workspace.iterdir()) == before
    run.session.close()
    take(local_store, workspace)
    assert list(state_dir.glob("working-*.json")) == []


def test_what_fails_leaves_the_workspace_to_others(local_store: LocalStore, tmp_path: Path, workspace: Path) -> None:
    """A restore that is refused, on an engine that goes on."""
    host = ThreadHost()
    session = EngineSession(host)
    taken = take(local_store, workspace)
    with pytest.raises(Refused, match="it is not empty"):
        restore(local_store, taken.id, workspace, host=host)
    with lock_directory(workspace):  # type: ignore[union-attr]
        pass
    session.close()


def test_a_request_that_is_cancelled_waits_no_longer(tmp_path: Path) -> None:
    """As any other."""
    context = Context("test", 60.0)
    context.cancel()
    held = lock_directory(tmp_path)
    assert held is not None
    with held, pytest.raises(Cancelled):
        WorkspaceLock().take(str(tmp_path), "snapshot", context)


def test_an_engine_ends_before_its_next_change_once_nobody_is_there() -> None:
    """The whole process, from whichever thread asks first."""
    code = (
        "import os, sys, time\n"
        "from poorwill.engine.machine.control_side import LOOK_EVERY_S, ControlSide\n"
        "control = ControlSide(0, os.getppid())\n"
        "control.check(); print(control.pipe, flush=True)\n"
        "time.sleep(float(sys.argv[1])); control.check(); print('changed', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(20 * LOOK_EVERY_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as alive:
        assert alive.stdin is not None and alive.stdout is not None
        pipe = int(alive.stdout.readline())
        assert pipe == os.fstat(alive.stdin.fileno()).st_ino and writes_to(os.getpid(), pipe)
        assert alive.stdout.readline() == "changed\n"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as left:
        assert left.stdin is not None and left.stdout is not None
        pipe = int(left.stdout.readline())
        left.stdin.close()
        assert left.stdout.readline() == "" and left.wait(10) == 0
        assert writes_to(os.getpid(), pipe) is False and writes_to(1 << 22, pipe) is None
