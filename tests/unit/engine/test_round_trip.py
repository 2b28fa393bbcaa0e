"""A workspace of everything, into a store and back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poorwill.errors import Corrupt, NotFound, Refused, UsageError, WorkspaceError
from poorwill.remote.local_host import LocalHost
from poorwill.store.local import LocalStore
from poorwill.store.s3.store import S3Store
from tests.support.runs import restore, take, verify
from tests.support.trees import differences
from tests.support.workspaces import SET_ID, SKIPPED, aged, make_everything, make_large


def test_everything_comes_back(local_store: LocalStore, tmp_path: Path) -> None:
    """Every kind of file, with all its attributes; what is not kept is named."""
    workspace = aged(make_everything(tmp_path / "w"))
    taken = take(local_store, workspace)
    assert [left.path for left in taken.metadata.left_out] == [os.fsdecode(path) for path in SKIPPED]
    assert "socket" in taken.metadata.left_out[0].reason
    verify(local_store, taken.id, "full")
    back = restore(local_store, taken.id, tmp_path / "back", privileged=True)
    assert differences(workspace, tmp_path / "back", without=SKIPPED) == []
    assert back.result["left_out"] == []


def test_everything_comes_back_from_s3(s3_store: S3Store, tmp_path: Path) -> None:
    """The same by presigned uploads and ranged reads."""
    workspace = aged(make_everything(tmp_path / "w"))
    taken = take(s3_store, workspace)
    verify(s3_store, taken.id)
    restore(s3_store, taken.id, tmp_path / "back", privileged=True)
    assert differences(workspace, tmp_path / "back", without=SKIPPED) == []


def test_modes_do_not_depend_on_a_umask(local_store: LocalStore, tmp_path: Path) -> None:
    """An engine that is started with a strict one creates files for everybody all the same, if they were so."""
    workspace = tmp_path / "w"
    workspace.mkdir()
    (workspace / "open").write_bytes(b"to all")
    os.mkfifo(workspace / "pipe")
    for name in ("open", "pipe"):
        (workspace / name).chmod(0o666)
    taken = take(local_store, aged(workspace))
    umask = os.umask(0o077)
    try:
        restore(local_store, taken.id, tmp_path / "back", host=LocalHost())
    finally:
        os.umask(umask)
    assert differences(workspace, tmp_path / "back") == []


def test_set_id_bits_only_when_asked_for(local_store: LocalStore, tmp_path: Path) -> None:
    """Without leave they are dropped and listed, and nothing else differs."""
    workspace = make_everything(tmp_path / "w")
    taken = take(local_store, workspace)
    back = restore(local_store, taken.id, tmp_path / "back")
    assert {os.fsencode(left["path"]) for left in back.result["left_out"]} == set(SET_ID)
    for path in map(os.fsdecode, SET_ID):
        mode = (workspace / path).stat().st_mode & 0o777
        assert (tmp_path / "back" / path).stat().st_mode & 0o7777 == mode
        (tmp_path / "back" / path).chmod((workspace / path).stat().st_mode)
    assert differences(workspace, tmp_path / "back", without=SKIPPED) == []


def test_an_empty_workspace(local_store: LocalStore, tmp_path: Path) -> None:
    """Nothing is something too: a snapshot without parts."""
    (tmp_path / "w").mkdir(mode=0o750)
    taken = take(local_store, tmp_path / "w")
    assert taken.metadata.parts == () and taken.totals["entries"] == 1
    verify(local_store, taken.id)
    restore(local_store, taken.id, tmp_path / "back")
    assert differences(tmp_path / "w", tmp_path / "back") == []


def test_a_directory_that_is_not_empty(local_store: LocalStore, tmp_path: Path) -> None:
    """Refused with nothing changed; when allowed, wanted entries are replaced and others left alone."""
    workspace = aged(make_everything(tmp_path / "w"))
    taken = take(local_store, workspace)
    back = tmp_path / "back"
    (back / "src").mkdir(parents=True)
    (back / "other").write_text("other")
    (back / "weights").write_text("a file where a folder belongs")
    (back / "links").mkdir()
    (back / "links" / "file").symlink_to(tmp_path / "elsewhere")
    (back / "names").symlink_to(tmp_path / "elsewhere-too")
    (tmp_path / "elsewhere-too").mkdir()
    with pytest.raises(Refused, match="not empty: nothing was restored"):
        restore(local_store, taken.id, back)
    assert sorted(path.name for path in back.iterdir()) == ["links", "names", "other", "src", "weights"]
    restore(local_store, taken.id, back, overwrite=True, privileged=True)
    assert (back / "other").read_text() == "other"
    (back / "other").unlink()
    os.utime(back, ns=(0, workspace.stat().st_mtime_ns))
    assert differences(workspace, back, without=SKIPPED) == []
    assert not (tmp_path / "elsewhere").exists() and list((tmp_path / "elsewhere-too").iterdir()) == []


def test_a_folder_where_a_file_belongs(local_store: LocalStore, tmp_path: Path) -> None:
    """A folder is never removed with all it holds, not even when overwriting is allowed."""
    workspace = make_large(tmp_path / "w", 1)
    taken = take(local_store, workspace)
    (tmp_path / "back" / "3.txt").mkdir(parents=True)
    (tmp_path / "back" / "3.txt" / "mine").write_text("mine")
    with pytest.raises(WorkspaceError, match=r"3\.txt: a directory is in the way"):
        restore(local_store, taken.id, tmp_path / "back", overwrite=True)
    assert (tmp_path / "back" / "3.txt" / "mine").read_text() == "mine"


def test_only_included_paths_are_restored(local_store: LocalStore, tmp_path: Path) -> None:
    """Folders with all below them, names at any depth, the file a wanted hardlink needs; and nothing else is read."""
    workspace = aged(make_everything(tmp_path / "w"))
    taken = take(local_store, workspace)
    back = restore(local_store, taken.id, tmp_path / "back", include=("src/p1", "f2.py", "another-hardlink"))
    names = {str(path.relative_to(tmp_path / "back")) for path in (tmp_path / "back").rglob("*")}
    assert {name for name in names if name.startswith("src")} == {
        "src", "src/p0", "src/p0/f2.py", "src/p1", "src/p2", "src/p2/f2.py", *(f"src/p1/f{n}.py" for n in range(10))
    }  # fmt: skip
    assert {name for name in names if not name.startswith("src")} == {"links", "links/another-hardlink"}
    assert (tmp_path / "back/links/another-hardlink").read_bytes() == b"linked"
    assert back.counters["written_bytes"] < 20_000
    with pytest.raises(Refused, match="no entry of the snapshot matches"):
        restore(local_store, taken.id, tmp_path / "none", include=("no-such-name",))


def test_excluded_paths_are_left_out(local_store: LocalStore, tmp_path: Path) -> None:
    """By name at any depth, by path from the top, and a folder with all below it."""
    workspace = aged(make_everything(tmp_path / "w"))
    taken = take(local_store, workspace, exclude=("*.safetensors", "/src/p1", "links/s*", "**/f3.py"))
    restore(local_store, taken.id, tmp_path / "back", privileged=True)
    gone = [b"weights/bf16.safetensors", b"weights/fp16.safetensors", b"weights/fp32.safetensors", b"src/p1",
            b"links/symlink", b"links/socket", b"src/p0/f3.py", b"src/p2/f3.py"]  # fmt: skip
    assert differences(workspace, tmp_path / "back", without=gone) == []
    assert taken.metadata.left_out == ()
    with pytest.raises(UsageError, match="leaves the workspace"):
        take(local_store, workspace, exclude=("../x",))


def test_the_engines_own_state_is_never_in_a_snapshot(
    local_store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when it lies inside the workspace, and is reached through a symlink."""
    workspace = make_large(tmp_path / "w", 1)
    (tmp_path / "alias").symlink_to(workspace)
    monkeypatch.setenv("POORWILL_STATE_DIR", str(tmp_path / "alias" / "home" / "state"))
    (workspace / "home" / "state").mkdir(parents=True)
    (workspace / "home" / "state" / "woken-1.npz").write_text("state")
    (workspace / "home" / "kept").write_text("kept")
    taken = take(local_store, tmp_path / "alias")
    restore(local_store, taken.id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back", without=["home/state"]) == []


def test_a_path_that_is_not_a_directory(local_store: LocalStore, tmp_path: Path) -> None:
    """A missing directory and a file are named; nothing is committed."""
    (tmp_path / "file").write_text("x")
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path / "file", "[Nn]ot a directory")):
        with pytest.raises(WorkspaceError, match=reason):
            take(local_store, path)
    assert list(local_store.list("snapshots/")) == []


def test_unknown_and_invalid_snapshot_ids(local_store: LocalStore, tmp_path: Path) -> None:
    """They are refused before anything is touched."""
    with pytest.raises(NotFound, match="20990101T000000Z-00000000"):
        restore(local_store, "20990101T000000Z-00000000", tmp_path / "back")
    with pytest.raises(UsageError, match="not a snapshot id"):
        restore(local_store, "../../etc", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_flipped_bit_and_a_missing_part(local_store: LocalStore, tmp_path: Path) -> None:
    """Restore and both kinds of verification stop with an error that names the object."""
    taken = take(local_store, make_large(tmp_path / "w", 2))
    path = Path(local_store.url.removeprefix("file://")) / taken.own_parts[0]
    good = path.read_bytes()
    path.write_bytes(good[:1000] + bytes([good[1000] ^ 4]) + good[1001:])
    for attempt in (lambda: verify(local_store, taken.id), lambda: restore(local_store, taken.id, tmp_path / "back")):
        with pytest.raises(Corrupt, match=taken.own_parts[0]):
            attempt()
    path.write_bytes(good[:-1])
    with pytest.raises(
        Corrupt, match=f"{taken.own_parts[0]}: {len(good) - 1} bytes in the store, expected {len(good)}"
    ):
        verify(local_store, taken.id)
    path.unlink()
    with pytest.raises(NotFound, match=taken.own_parts[0]):
        verify(local_store, taken.id)
