"""The mark of an unfinished restore: there with its header or not at all, and until all that was owed is there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from poorwill.control.records import catalog
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.journal import HEADER_BYTES, Journal
from poorwill.errors import Refused, WorkspaceError
from poorwill.snapshot.order import RestoreOrder
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.program import poorwill
from tests.support.runs import Taken, restore, take
from tests.support.trees import differences
from tests.support.workspaces import aged, make_large

NAME, OWED = ".poorwill-restore", ".poorwill-restore-owed"
CHUNKS = 8


def journal(root: Path, manifest: str = "m", selection: tuple[str, ...] = (), whole: bool = True) -> Journal:
    return Journal(os.fsencode(root), manifest, list(selection), whole)


def in_a_child(do: Callable[[], object], on_event: Callable[[str, tuple[object, ...]], None]) -> int:
    """How a process that does something ends; on_event is told what it asks of the kernel, and may raise or kill."""
    child = os.fork()
    if child == 0:
        sys.addaudithook(on_event)
        do()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def kill_at(event: str) -> Callable[[str, tuple[object, ...]], None]:
    def hook(name: str, arguments: tuple[object, ...]) -> None:
        if name == event:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def no_unnamed_files(name: str, arguments: tuple[object, ...]) -> None:
    """As a file system without them, which is asked for one by its flag."""
    if name == "os.link":
        raise OSError(95, "Operation not supported")


def done_in(found: Journal) -> list[int]:
    rows = found.resume(CHUNKS)
    assert rows is not None
    return np.flatnonzero(rows).tolist()


def test_killed_before_it_has_its_name(tmp_path: Path) -> None:
    """Nothing is left in the workspace: the file had no name while it had no header."""
    status = in_a_child(lambda: journal(tmp_path).start(), kill_at("os.link"))
    assert os.WTERMSIG(status) == signal.SIGKILL and list(tmp_path.iterdir()) == []
    assert journal(tmp_path).resume(CHUNKS) is None and not Journal.left_in(os.fsencode(tmp_path))


def test_without_unnamed_files(tmp_path: Path) -> None:
    """It is made by its name there, and is the same."""
    assert in_a_child(lambda: journal(tmp_path).start(), no_unnamed_files) == 0
    assert (tmp_path / NAME).stat().st_size == HEADER_BYTES and done_in(journal(tmp_path)) == []


@pytest.mark.parametrize("size", [0, 5, HEADER_BYTES - 1])
def test_one_without_its_header_is_of_a_restore_that_had_written_nothing(tmp_path: Path, size: int) -> None:
    """Where it has its name first, or was left by an older version: any restore may begin there, nothing is owed."""
    started = journal(tmp_path)
    started.start()
    started.close()
    os.truncate(tmp_path / NAME, size)
    other = journal(tmp_path, "other", ("*.txt",), whole=False)
    assert other.hollow and other.resume(CHUNKS) is None
    other.start()
    assert not other.hollow and not other.owes
    other.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [b"", b"PWRESTO2"])
def test_the_same_command_continues_it(local_store: LocalStore, tmp_path: Path, left: bytes) -> None:
    """A directory with nothing but a mark that was cut off counts as empty; no snapshot is taken of it meanwhile."""
    workspace, back = aged(make_large(tmp_path / "w", 1)), tmp_path / "back"
    taken = take(local_store, workspace)
    back.mkdir()
    (back / NAME).write_bytes(left)
    with pytest.raises(Refused, match="a restore was interrupted there"):
        take(local_store, back)
    ran = poorwill("restore", taken.id, back, "--store", local_store.url)
    assert ran.code == 0, ran.err
    assert differences(workspace, back) == []


def test_entries_of_another_boot_count_for_nothing(tmp_path: Path) -> None:
    """The same restore goes on, but looks at every chunk: what it had written may never have reached the disk."""
    started = journal(tmp_path, whole=False)
    started.start()
    started.done(3)
    started.close()
    assert done_in(journal(tmp_path)) == [3]
    with open(tmp_path / NAME, "r+b") as file:
        file.seek(HEADER_BYTES - 8)
        file.write(b"\0" * 8)
    again = journal(tmp_path, whole=False)
    assert done_in(again) == []
    again.start()
    again.done(4)
    again.close()
    assert done_in(journal(tmp_path)) == [4]
    last = journal(tmp_path, whole=False)
    last.start()
    last.end()
    assert list(tmp_path.iterdir()) == []


def test_debts_last_until_each_is_paid(tmp_path: Path) -> None:
    """Three restores over one another: a part pays for itself alone, a whole one for all; there is always a mark."""
    first, second, third = (journal(tmp_path, name, (name,), whole=False) for name in ("1", "2", "3"))
    for each in (first, second, third):
        each.start()
        each.close()
    assert third.owes and first.resume(CHUNKS) is None  # the third is under way: only it goes on as it is
    third.start()
    third.end()
    assert {path.name for path in tmp_path.iterdir()} == {OWED}
    assert done_in(second) == [] and done_in(first) == [] and third.resume(CHUNKS) is None
    first.start()
    first.end()
    assert Journal.left_in(os.fsencode(tmp_path)) and first.resume(CHUNKS) is None
    second.start()
    second.end()
    assert list(tmp_path.iterdir()) == []
    for each in (first, journal(tmp_path, "whole")):
        each.start()
    each.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PWRESTO1" + b"x" * 32, b"nonsense" * 100])
def test_a_debt_that_cannot_be_read_is_paid_by_a_whole_restore_alone(tmp_path: Path, content: bytes) -> None:
    """A journal of another version, or a file of debts that is damaged."""
    name = NAME if content[:1] in (b"P", b"n") else OWED
    (tmp_path / name).write_bytes(content)
    part = journal(tmp_path, selection=("x",), whole=False)
    assert part.resume(CHUNKS) is None
    part.start()
    assert part.owes
    part.end()
    assert {path.name for path in tmp_path.iterdir()} == {OWED}
    whole = journal(tmp_path)
    whole.start()
    whole.end()
    assert list(tmp_path.iterdir()) == []


def test_a_mark_that_cannot_be_written(tmp_path: Path) -> None:
    """Nothing is restored without it."""
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / NAME).mkdir()
    with pytest.raises(WorkspaceError, match="the mark of an unfinished restore cannot be written"):
        journal(tmp_path / "workspace").start()


def cut_off(store: LocalStore, taken: Taken, back: Path, **fields: object) -> None:
    """A restore that ends after one of its parts."""
    session = EngineSession(ThreadHost())
    run = RestoreRun(store, session, catalog.find(store, taken.id), RestoreOrder(str(back), **fields))  # type: ignore[arg-type]
    run.open()
    run.restore_part(min(run.parts))
    session.close()


def test_a_partial_restore_over_one_that_was_cut_off(local_store: LocalStore, tmp_path: Path) -> None:
    """It ends well and says what is still owed; no snapshot is taken until the first one has ended as well."""
    workspace, back = aged(make_large(tmp_path / "w", 3)), tmp_path / "back"
    taken = take(local_store, workspace, parts=4)
    cut_off(local_store, taken, back)
    with pytest.raises(Refused, match="another restore was interrupted there"):
        restore(local_store, taken.id, back, include=("1*.txt",))
    part = restore(local_store, taken.id, back, include=("1*.txt",), overwrite=True)
    assert "still not whole" in part.result["warnings"][0] and (back / "10.txt").exists()
    assert differences(workspace, back)
    with pytest.raises(Refused, match="finish the restore, then take the snapshot"):
        take(local_store, back)
    again = restore(local_store, taken.id, back)
    assert again.resumed and again.result["warnings"] == []
    assert differences(workspace, back) == []
    take(local_store, back)


def test_a_whole_restore_over_them_owes_nothing(local_store: LocalStore, tmp_path: Path) -> None:
    """Of whatever snapshot it is."""
    workspace, back = aged(make_large(tmp_path / "w", 2)), tmp_path / "back"
    taken = take(local_store, workspace, parts=3)
    cut_off(local_store, taken, back)
    cut_off(local_store, taken, back, include=("large.bin",), overwrite=True)
    (workspace / "0.txt").write_text("later")
    later = take(local_store, aged(workspace))
    assert restore(local_store, later.id, back, overwrite=True).result["warnings"] == []
    assert differences(workspace, back) == []
    take(local_store, back)
