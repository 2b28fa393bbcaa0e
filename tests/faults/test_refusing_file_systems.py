"""File systems that refuse a call: what they refuse is read in another way, or named, and never dropped in silence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poorwill.control.machine.destruction import check_unchanged
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.pack.scan import data_extents
from poorwill.errors import WorkspaceError
from poorwill.store.local import LocalStore
from tests.support.refusing_calls import refusing_host
from tests.support.runs import order, restore, take
from tests.support.trees import differences
from tests.support.workspaces import aged, noise


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "w"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "file").write_text("below")
    (root / "link").symlink_to("target")
    (root / "noted").write_text("noted")
    os.setxattr(root / "noted", "user.note", b"value")
    with open(root / "sparse", "wb") as file:
        file.write(noise(600_000))
        file.seek(8 << 20)
        file.write(noise(600_000, 2))
    return aged(root)


@pytest.mark.parametrize("code", ["EINVAL", "EOPNOTSUPP", "EIO", "ESTALE", "EPERM"])
def test_where_holes_cannot_be_asked_for(local_store: LocalStore, tmp_path: Path, workspace: Path, code: str) -> None:
    """Only ENXIO says that there is no more data: any other error of SEEK_DATA means that all of it is read."""
    host = refusing_host(tmp_path / "site", workspace, code, "lseek")
    taken = take(local_store, workspace, host=host)
    restore(local_store, taken.id, tmp_path / "back")
    assert (tmp_path / "back" / "sparse").read_bytes() == (workspace / "sparse").read_bytes()
    assert [line for line in differences(workspace, tmp_path / "back") if "'sparse': data" not in line] == []


def test_a_kernel_that_cannot_tell_of_holes() -> None:
    """A file in /proc answers SEEK_DATA with EINVAL: it is data from end to end."""
    assert data_extents(b"/proc/version", 100) == [(0, 100)]
    assert data_extents(b"/proc/none", 100) == [(0, 100)]


@pytest.mark.parametrize(
    ("call", "path", "reason"),
    [
        ("readlink", "link", "Input/output error"),
        ("listxattr", "noted", "its attributes: Input/output error"),
        ("getxattr", "noted", "xattr user.note: Input/output error"),
        ("scandir", "folder", "Input/output error"),
    ],
)
def test_what_cannot_be_read_is_named(
    local_store: LocalStore, tmp_path: Path, workspace: Path, call: str, path: str, reason: str
) -> None:
    """The snapshot fails and says why; where unreadable entries may be skipped, it is listed, all else is kept, and the
    gate opens."""
    host = refusing_host(tmp_path / "site", workspace / path, "EIO", call)
    with pytest.raises(WorkspaceError, match=f"1 entries of .* cannot be read: {path}: {reason}: make them readable"):
        take(local_store, workspace, host=host)
    taken = take(local_store, workspace, host=host, skip_unreadable=True)
    assert [(left.path, left.reason) for left in taken.metadata.left_out] == [(path, reason)]
    restore(local_store, taken.id, tmp_path / "back")
    without = {"readlink": ["link"], "scandir": ["folder/file"]}.get(call, [])
    different = differences(workspace, tmp_path / "back", without=without)
    assert [line for line in different if "noted" not in str(line)] == []
    assert (tmp_path / "back" / "noted").read_text() == "noted"
    session = EngineSession(host)
    try:
        wanted = order(workspace, taken.id, skip_unreadable=True)
        check_unchanged(local_store, session, wanted, taken.metadata)
    finally:
        session.close()
