"""An engine that outlives its control side, because it was stopped when that was killed, changes nothing any more."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deployments.demo.tree_listing import list_tree
from poorwill.store.local import LocalStore
from tests.support.program import poorwill, start
from tests.support.runs import take
from tests.support.trees import differences
from tests.support.workspaces import aged, make_large

FILES = 6000
SOON_S = 20.0


def many_files(root: Path) -> Path:
    """So many that a restore can be met in the middle."""
    (root / "d").mkdir(parents=True)
    for number in range(FILES):
        (root / "d" / f"f{number}").write_bytes(os.urandom(3000))
    return aged(root)


def left_stopped(command: list[str | Path], reached: Callable[[], bool]) -> psutil.Process | None:
    """Start a command, and kill it at that moment while its engine is stopped; None if it was faster."""
    program = start(*command)
    while not reached() and program.poll() is None:
        pass
    try:
        (engine,) = psutil.Process(program.pid).children()
        engine.suspend()
    except (psutil.Error, ValueError):
        program.communicate()
        return None
    program.kill()
    program.wait()
    return engine


def has_ended(engine: psutil.Process) -> bool:
    """A zombie waits for whoever adopted it."""
    ends_s = time.monotonic() + SOON_S
    while time.monotonic() < ends_s:
        if not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_overtaken_it_is_ended_first(local_store: LocalStore, tmp_path: Path) -> None:
    """The same restore again ends, and what it restored stays as it is when the old engine is let go."""
    workspace, back = many_files(tmp_path / "w"), tmp_path / "back"
    command = ["restore", take(local_store, workspace).id, back, "--store", local_store.url]
    engine = left_stopped(command, (back / "d" / "f300").exists)
    again = poorwill(*command)
    assert again.code == 0, again.err
    assert engine is None or has_ended(engine)
    assert differences(workspace, back) == []


def test_not_overtaken_it_changes_nothing_either(local_store: LocalStore, tmp_path: Path) -> None:
    """Let go after its control side is gone, it ends before its next change; then the same command continues."""
    workspace, back = many_files(tmp_path / "w"), tmp_path / "back"
    command = ["restore", take(local_store, workspace).id, back, "--store", local_store.url]
    engine = left_stopped(command, (back / "d" / "f300").exists)
    if engine is not None:
        time.sleep(0.1)
        before = list_tree(back)
        engine.resume()
        assert has_ended(engine)
        after = list_tree(back)
        # What a thread had begun when it was stopped, one call to the kernel, it ends.
        assert len(set(after) - set(before)) <= psutil.cpu_count() and set(before) <= set(after)
    assert poorwill(*command).code == 0
    assert differences(workspace, back) == []


def test_of_a_snapshot(local_store: LocalStore, tmp_path: Path) -> None:
    """The same snapshot again ends the old engine, and takes over what it had finished."""
    workspace = aged(make_large(tmp_path / "w", 4))
    command = ["snapshot", workspace, "--store", local_store.url, "--machine", "m", "--id", "20260102T030405Z-0000abcd"]
    parts = tmp_path / "local-store/parts/m/20260102T030405Z-0000abcd"
    engine = left_stopped(command, lambda: parts.exists() and any(parts.iterdir()))
    again = poorwill(*command)
    assert again.code == 0, again.err
    assert engine is None or has_ended(engine)
    assert poorwill("restore", command[-1], tmp_path / "back", "--store", local_store.url).code == 0
    assert differences(workspace, tmp_path / "back") == []


def test_one_that_somebody_waits_for_is_refused_by_name(local_store: LocalStore, tmp_path: Path) -> None:
    """Exit code 6, with the process and the command to look for."""
    workspace, back = many_files(tmp_path / "w"), tmp_path / "back"
    command = ["restore", take(local_store, workspace).id, back, "--store", local_store.url]
    program = start(*command)
    while not (back / "d" / "f300").exists() and program.poll() is None:
        pass
    program.send_signal(signal.SIGSTOP)
    again = poorwill(*command)
    ended = program.poll() is not None
    program.send_signal(signal.SIGCONT)
    try:
        assert program.wait(SOON_S) == 0
    except subprocess.TimeoutExpired:
        pytest.fail("the first program does not end")
    assert ended or again.code == 6, again.err
    if again.code == 6:
        assert f"of process {program.pid}: " in again.err and "poorwill restore" in again.err.replace(" -P", "")
    assert poorwill(*command).code == 0
    assert differences(workspace, back) == []
