"""A disk that is full on the machine: a real one, of a few megabytes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.demo.tree_listing import differences, list_tree
from poorwill.errors import WorkspaceError
from poorwill.remote.local_host import LocalHost
from poorwill.store.local import LocalStore
from tests.support.runs import restore, take
from tests.support.workspaces import noise


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB with one file on it."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path))
    try:
        (path / "mine").write_text("mine")
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True, timeout=20)


def test_a_restore_onto_a_full_disk_goes_on_when_there_is_room(
    disk: Path, local_store: LocalStore, tmp_path: Path
) -> None:
    """The error names file and reason, what is there otherwise stays, and the same restore continues afterwards."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for number in range(10):
        (workspace / f"{number}.bin").write_bytes(noise(2 << 20, number))
    taken = take(local_store, workspace)
    with pytest.raises(WorkspaceError, match=r"needs \d+ bytes, \d+ are free: nothing was restored"):
        restore(local_store, taken.id, disk / "inner", host=LocalHost())
    (disk / "inner").rmdir()  # so it is empty
    with pytest.raises(WorkspaceError, match="No space left on device: it cannot be restored"):
        restore(local_store, taken.id, disk, host=LocalHost(), overwrite=True)
    assert (disk / "mine").read_text() == "mine"
    mount("-o", "remount,size=64m", str(disk))
    restored = restore(local_store, taken.id, disk, host=LocalHost(), overwrite=True)
    assert restored.resumed
    (workspace / "mine").write_text("mine")
    left = differences(list_tree(workspace), list_tree(disk))
    assert [line for line in left if not line.startswith(("'.'", "'mine'"))] == []
