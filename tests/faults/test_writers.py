"""Processes that still write to a workspace: named and left alone, ended first, or ignored, before a machine goes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from poorwill.control.machine.destruction import check_unchanged
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.machine import open_files, stopping
from poorwill.engine.protocol.answers import Changes
from poorwill.errors import Refused
from poorwill.remote.local_host import LocalHost
from poorwill.store.base import Store
from poorwill.store.local import LocalStore
from tests.support.runs import Taken, order, take
from tests.support.workspaces import aged, make_large
from tests.support.writers import DEAF, MAPS, OPENS, READS, ext4_image, mounted, writer


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return aged(make_large(tmp_path / "w", 1))


def gate(store: Store, workspace: Path, taken: Taken, **fields: Any) -> Changes:
    """The last look, by an engine that is a process of its own."""
    session = EngineSession(LocalHost())
    try:
        return check_unchanged(store, session, order(workspace, taken.id, **fields), taken.metadata)
    finally:
        session.close()


@pytest.mark.parametrize(("code", "word"), [(OPENS, "5.txt"), (MAPS, r"5.txt \(mapped\)")])
def test_a_writer_is_named(local_store: LocalStore, workspace: Path, code: str, word: str) -> None:
    """The gate stays shut with its program, file and three ways to go on; `ignore` opens it."""
    taken = take(local_store, workspace)
    with writer(code, workspace / "5.txt") as process:
        if code == MAPS:
            os.sync()
            taken = take(local_store, workspace)
        said = rf"python\S* \(pid {process.pid}: \S*python.*\) has {word} open for writing in the workspace of m1: "
        with pytest.raises(Refused, match=rf'{said}.*goes on billing: stop it, .*"stop" .*"ignore"') as refused:
            gate(local_store, workspace, taken)
        assert [row["path"] for row in refused.value.facts["writers"]] == ["5.txt"]
        assert gate(local_store, workspace, taken, writers="ignore").writers == ()
        assert process.process.poll() is None
    assert gate(local_store, workspace, taken).writers_count == 0


def test_readers_and_writers_elsewhere_do_not_matter(local_store: LocalStore, workspace: Path, tmp_path: Path) -> None:
    """A file that is read, one beside the workspace, one that was excluded, and one without a name any more."""
    (tmp_path / "beside").write_text("x")
    (workspace / "excluded.log").write_text("x")
    taken = take(local_store, workspace, exclude=("*.log",))
    (workspace / "gone").write_text("x")
    open_ones = (tmp_path / "beside", workspace / "excluded.log", workspace / "gone")
    with writer(READS, workspace / "5.txt"), writer(OPENS, *open_ones):
        (workspace / "gone").unlink()
        assert gate(local_store, workspace, taken, exclude=("*.log",)).writers == ()


def test_a_writer_in_another_mount_namespace(local_store: LocalStore, workspace: Path, tmp_path: Path) -> None:
    """A container that has the workspace under another name."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("this host lets nobody make a namespace")
    (tmp_path / "inside").mkdir()
    taken = take(local_store, workspace)
    bind = f'mount --bind {workspace} {tmp_path / "inside"} && exec "$@"'
    for code in (OPENS, MAPS):
        with writer(code, tmp_path / "inside" / "5.txt", prefix=("unshare", "-m", "sh", "-c", bind, "sh")) as process:
            os.sync()
            taken = take(local_store, workspace)
            with pytest.raises(Refused, match=rf"pid {process.pid}: .*has 5.txt"):
                gate(local_store, workspace, taken)


def test_a_hard_link_from_outside(local_store: LocalStore, workspace: Path, tmp_path: Path) -> None:
    """A process that has the file open under a name beside the workspace writes to what is in it."""
    (tmp_path / "beside").hardlink_to(workspace / "5.txt")
    taken = take(local_store, workspace)
    for code in (OPENS, MAPS):
        with writer(code, tmp_path / "beside") as process:
            os.sync()
            taken = take(local_store, workspace)
            with pytest.raises(Refused, match=rf"pid {process.pid}: .*has 5.txt"):
                gate(local_store, workspace, taken)


def test_a_file_that_is_a_disk(local_store: LocalStore, workspace: Path, tmp_path: Path) -> None:
    """What is mounted from it reaches it when the kernel likes: it is named, and nobody is signalled."""
    image = ext4_image(workspace / "disk.img")
    with mounted(tmp_path / "disk", "ext4", "loop", source=image):
        os.sync()
        taken = take(local_store, workspace)
        with pytest.raises(Refused, match=r"the kernel \(pid 0: a loop device\) has disk.img open for writing"):
            gate(local_store, workspace, taken)
        with pytest.raises(Refused, match=r"has disk.img open for writing .*must not be"):
            take(local_store, workspace, writers="stop")


def test_writers_are_ended_before_the_first_scan(local_store: LocalStore, workspace: Path) -> None:
    """`stop`: what they write while they end is in the snapshot, and the gate opens. One that is stopped ends, too."""
    code = f"""
{OPENS}
def end(number, frame):
    files[0].write(b'last words')
    files[0].flush()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
"""
    with writer(code, workspace / "5.txt") as process, writer(OPENS, workspace / "6.txt") as frozen:
        frozen.process.send_signal(signal.SIGSTOP)
        taken = take(local_store, workspace, writers="stop")
        assert process.process.wait(10) == 0 and frozen.process.wait(10) != 0
    assert (workspace / "5.txt").read_bytes().startswith(b"last words")
    assert gate(local_store, workspace, taken, writers="stop").paths == ()


def test_writers_are_ended_at_the_gate(local_store: LocalStore, workspace: Path) -> None:
    """One that came after the first scan; had it written, the gate would stay shut for what changed."""
    taken = take(local_store, workspace, writers="stop")
    with writer(OPENS, workspace / "5.txt") as process:
        assert gate(local_store, workspace, taken, writers="stop").writers == ()
        assert process.process.wait(10) != 0
    writes = OPENS + "\nfiles[0].write(b'x'); files[0].flush()"
    changed = pytest.raises(Refused, match=r"has changed since snapshot .* \(5.txt\)")
    with writer(writes, workspace / "5.txt"), changed:
        gate(local_store, workspace, taken, writers="stop")


def test_a_writer_that_does_not_end(local_store: LocalStore, workspace: Path) -> None:
    """It is asked, waited for, and named, before anything is packed."""
    with writer(f"{DEAF}\n{OPENS}", workspace / "5.txt") as process:
        said = rf"pid {process.pid}: .*has 5.txt open for writing .*was asked to end and did not, or must not be"
        began_s = time.monotonic()
        with pytest.raises(Refused, match=said + ".*nothing was packed"):
            take(local_store, workspace, writers="stop")
        assert stopping.PATIENCE_S <= time.monotonic() - began_s < stopping.PATIENCE_S + 10
    assert list(local_store.list("snapshots/")) == []


SSH_SERVER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(15, b"sshd", 0, 0, 0)
shell = os.fork()
if not shell:
    os.execvp("sh", ["sh", "-c", 'exec 3>>"$0"; echo ready; read x; exec sleep 600', sys.argv[1]])
os.waitpid(shell, 0)
"""


def test_whoever_is_logged_in_is_never_signalled(local_store: LocalStore, workspace: Path) -> None:
    """The shell that an SSH server started has a file open: it is named, and lives. So do the processes that started
    the engine, this one among them, and PID 1."""
    command = [sys.executable, "-c", SSH_SERVER, str(workspace / "5.txt")]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        (shell,) = [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
        assert stopping.never_signalled({1, os.getpid(), os.getppid(), shell, server.pid}, os.getpid()) == {
            1, os.getpid(), os.getppid(), shell, server.pid
        }  # fmt: skip
        with pytest.raises(Refused, match=rf"pid {shell}: .*must not be"):
            take(local_store, workspace, writers="stop", host=LocalHost())
        with open(workspace / "6.txt", "ab"), writer(OPENS, workspace / "7.txt") as other:
            with pytest.raises(Refused, match=rf"pid {os.getpid()}: .*6.txt"):
                take(local_store, workspace, writers="stop", host=LocalHost())
            assert other.process.poll() is None, "ended in vain, as the machine is kept for the other"
        assert server.poll() is None and Path(f"/proc/{shell}").exists()
    finally:
        for pid in (shell, server.pid):
            os.kill(pid, signal.SIGKILL)
        server.communicate()


def _fake_proc(root: Path, *, hide_first: bool = False) -> str:
    """Three processes: PID 1, a thread of the kernel, and one that has `file` open for writing."""
    root.mkdir(exist_ok=True)
    (root / "file").write_text("x")
    for pid, flags in ((1, 0), (2, 0x00200000), (30, 0)):
        if hide_first and pid == 1:
            continue
        for folder in ("fd", "fdinfo", "task"):
            (root / "proc" / str(pid) / folder).mkdir(parents=True)
        (root / "proc" / str(pid) / "stat").write_text(f"{pid} (a) b) S 0 1 1 0 -1 {flags} 0 0")
        (root / "proc" / str(pid) / "maps").write_text("")
    (root / "proc" / "30" / "fd" / "7").symlink_to(root / "file")
    (root / "proc" / "30" / "fdinfo" / "7").write_text("pos:\t0\nflags:\t0100002\nmnt_id:\t29\n")
    return str(root / "proc")


def test_processes_that_cannot_be_looked_into_are_counted(tmp_path: Path) -> None:
    """One that refuses, and, where others do not even show, at least one; threads of the kernel are none."""
    proc = _fake_proc(tmp_path)
    info = (tmp_path / "file").stat()
    (found,) = open_files.look(descriptors=True, proc=proc).files
    assert (found.pid, found.mapped, found.identities) == (30, False, ((info.st_dev, info.st_ino),))
    assert open_files.look(descriptors=True, proc=proc).hidden == 0
    assert open_files.look(descriptors=False, proc=proc).files == ()

    shutil.rmtree(tmp_path / "proc" / "30" / "fd")
    (tmp_path / "proc" / "30" / "fd").write_text("not a directory")
    looked = open_files.look(descriptors=True, proc=proc)
    assert looked.files == () and looked.hidden == 1
    assert open_files.look(descriptors=True, proc=_fake_proc(tmp_path / "other", hide_first=True)).hidden == 1
    assert open_files.look(descriptors=True, proc=str(tmp_path / "none")).hidden == 1
