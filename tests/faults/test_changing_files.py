"""Files that change, vanish or refuse while they are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poorwill.engine.protocol.asking import Request
from poorwill.engine.protocol.requests import Pack
from poorwill.errors import WorkspaceError
from poorwill.store.local import LocalStore
from tests.support.engines import Hook, ThreadHost
from tests.support.runs import restore, take
from tests.support.trees import differences
from tests.support.workspaces import CHUNK_BYTES, aged, make_large, noise


def once(action: Callable[[], object]) -> Hook:
    """A hook that acts the first time only."""
    left = [action]

    def hook(request: Request[Any]) -> None:
        if left:
            left.pop()()

    return hook


def _grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(noise(100_000, 70))


def _shrink(path: Path) -> None:
    os.truncate(path, 1000)


def _rewrite(path: Path) -> None:
    path.write_bytes(noise(path.stat().st_size, 71))


def _become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _become_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize("change", [_grow, _shrink, _rewrite, Path.unlink, _become_a_folder, _become_a_link])
@pytest.mark.parametrize("name", ["large.bin", "5.txt"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_change_between_scan_and_settling(
    local_store: LocalStore, tmp_path: Path, change: Callable[[Path], object], name: str, moment: str
) -> None:
    """Before or after it is read: the snapshot holds what the workspace held at its end."""
    workspace = aged(make_large(tmp_path / "w", 1))
    hook = {"pack": once(lambda: change(workspace / name))}
    host = ThreadHost(**{moment: hook})
    taken = take(local_store, workspace, host=host)
    restore(local_store, taken.id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []


def test_a_change_between_two_chunks_of_a_file(local_store: LocalStore, tmp_path: Path) -> None:
    """One part was read before, another after: the file is packed again as one moment saw it."""
    workspace = aged(make_large(tmp_path / "w", 4))
    parts_read: list[int] = []

    def hook(request: Pack) -> None:
        parts_read.append(request.part)
        if len(parts_read) == 2:
            (workspace / "large.bin").write_bytes(noise(4 * CHUNK_BYTES, 72))

    taken = take(local_store, workspace, host=ThreadHost(after={"pack": hook}))
    restore(local_store, taken.id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []


def test_new_files_meanwhile(local_store: LocalStore, tmp_path: Path) -> None:
    """What appears before the last look is part of the snapshot."""
    workspace = aged(make_large(tmp_path / "w", 1))
    new = {"pack": once(lambda: (workspace / "new").write_text("new"))}
    taken = take(local_store, workspace, host=ThreadHost(after=new))
    restore(local_store, taken.id, tmp_path / "back")
    assert (tmp_path / "back" / "new").read_text() == "new"


def test_a_file_that_keeps_changing_is_named(local_store: LocalStore, tmp_path: Path) -> None:
    """After three further rounds the snapshot fails, names it, and is not committed."""
    workspace = aged(make_large(tmp_path / "w", 1))
    rounds: list[int] = []

    def log() -> None:
        rounds.append(1)
        with open(workspace / "busy.log", "a") as file:
            file.write("again\n")

    with pytest.raises(WorkspaceError, match=r"1 files .* kept changing .* 3 times over: busy.log: stop what writes"):
        take(local_store, workspace, at_settle=log)
    assert len(rounds) == 4
    assert list(local_store.list("snapshots/")) == []


def test_a_file_that_calms_down_is_kept(local_store: LocalStore, tmp_path: Path) -> None:
    """Changing in every round but the last is fine."""
    workspace = aged(make_large(tmp_path / "w", 1))
    rounds: list[int] = []

    def log() -> None:
        rounds.append(1)
        if len(rounds) <= 3:
            (workspace / "busy.log").write_text("again\n" * len(rounds))
        aged(workspace)

    taken = take(local_store, workspace, at_settle=log)
    restore(local_store, taken.id, tmp_path / "back")
    assert (tmp_path / "back" / "busy.log").read_text() == "again\n" * 3


UNPRIVILEGED = """
import json, os, sys
from pathlib import Path
from poorwill.errors import PoorwillError
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.runs import restore, take
root, uid, skip = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "skip"
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
late = Path(sys.argv[4]) if len(sys.argv) > 4 else None
host = ThreadHost(after={"scan": lambda request: late and late.chmod(0)})
store = LocalStore(root / "store")
try:
    taken = take(store, root / "w", host=host, skip_unreadable=skip)
    restore(store, taken.id, root / "back")
    left_out = [left.document() for left in taken.metadata.left_out]
    print(json.dumps({"left_out": left_out, "files": taken.totals["files"]}))
except PoorwillError as error:
    print(json.dumps(error.to_wire()))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that a user without rights can reach and write to; pytest keeps its own from others."""
    with tempfile.TemporaryDirectory(prefix="poorwill-test-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def _as_nobody(root: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-c", UNPRIVILEGED, str(root), "65534", *arguments]
    env = {**os.environ, "POORWILL_STATE_DIR": str(root / "state")}
    ran = subprocess.run(command, env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


def _make_readable(root: Path) -> Path:
    workspace = root / "w"
    for number in range(4):
        (workspace / f"d{number}").mkdir(parents=True)
        (workspace / f"d{number}" / "file").write_text(f"{number}")
    (workspace / "d3" / "read-only").write_text("r")
    _owned(workspace)
    return workspace


def _owned(workspace: Path) -> None:
    if os.geteuid() == 0:
        for path in (workspace, *workspace.rglob("*")):
            os.chown(path, 65534, 65534)


def test_unreadable_files_are_listed(open_folder: Path) -> None:
    """A file and a folder that refuse fail the snapshot, both named; nothing is committed."""
    workspace = _make_readable(open_folder)
    (workspace / "d1" / "file").chmod(0)
    (workspace / "d2").chmod(0)
    error = _as_nobody(open_folder, "fail")
    assert error["type"] == "WorkspaceError"
    assert "2 entries" in str(error["message"]) and "d1/file: Permission denied" in str(error["message"])
    assert not (open_folder / "store" / "snapshots").exists()
    (workspace / "d2").chmod(0o700)


def test_unreadable_files_can_be_skipped(open_folder: Path) -> None:
    """Then they are recorded, and everything else comes back, for a user who is not root too; a folder comes empty."""
    workspace = _make_readable(open_folder)
    try:
        os.setxattr(workspace / "d3" / "read-only", "user.note", b"x")
    except OSError:
        pass  # this file system has none
    (workspace / "d3" / "read-only").chmod(0o444)
    (workspace / "d1" / "file").chmod(0)
    (workspace / "d2").chmod(0)
    (workspace / "d3").chmod(0o500)
    told = _as_nobody(open_folder, "skip")
    assert sorted(told.get("left_out", [told]), key=str) == [
        {"path": path, "reason": "Permission denied"} for path in ("d1/file", "d2")
    ]
    assert differences(workspace, open_folder / "back", without=["d1/file", "d2/file"]) == []


def test_a_file_that_refuses_only_when_it_is_read(open_folder: Path) -> None:
    """Readable when it was scanned: reported, or skipped and recorded, all the same."""
    workspace = _make_readable(open_folder)
    late = str(workspace / "d1" / "file")
    error = _as_nobody(open_folder, "fail", late)
    assert error["type"] == "WorkspaceError" and "d1/file: Permission denied" in str(error["message"])
    Path(late).chmod(0o600)
    told = _as_nobody(open_folder, "skip", late)
    assert [left["path"] for left in told["left_out"]] == ["d1/file"] and told["files"] == 4
    Path(late).unlink()
    assert not (open_folder / "back" / "d1" / "file").exists()
