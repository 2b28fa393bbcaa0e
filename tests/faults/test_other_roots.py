"""A workspace that becomes another directory, or loses and gains file systems, while it is packed or before the machine
goes; and stores that lie inside it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from poorwill.control.machine.destruction import check_destroyable, check_unchanged
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.pack.root_watch import RootWatch
from poorwill.errors import Refused, UsageError, WorkspaceError
from poorwill.snapshot import ids
from poorwill.snapshot.order import SnapshotOrder
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.runs import MACHINE, Taken, order, take, verify
from tests.support.workspaces import aged, noise

INSISTING = r'allow_shrink=True \(in the API "allow_shrink": true, on the command line --allow-shrink\)'
Mount = Callable[..., Path]


def files(folder: Path, count: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"f{number}").write_bytes(noise(2000, number))
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return aged(files(tmp_path / "w"))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a tmpfs, or `bind` once more; what a test leaves mounted goes in the end."""
    mounted: list[Path] = []

    def mount_(at: Path, bind: Path | None = None) -> Path:
        at.mkdir(exist_ok=True)
        tmpfs = ["-t", "tmpfs", "-o", f"mode={at.stat().st_mode & 0o7777:o}", "none"]
        what = ["--bind", str(bind)] if bind is not None else tmpfs
        if subprocess.run(["mount", *what, str(at)], capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        mounted.append(at)
        return at

    yield mount_
    for at in reversed(mounted):
        subprocess.run(["umount", "-l", str(at)], capture_output=True, check=False)


def umount(at: Path) -> None:
    """Also while an engine has a directory of it open."""
    subprocess.run(["umount", "-l", str(at)], check=True)


def last_look(store: LocalStore, made: Taken, asked: SnapshotOrder) -> None:
    with closing(EngineSession(ThreadHost())) as session:
        check_unchanged(store, session, asked, made.metadata)


def test_the_workspace_is_replaced_while_it_is_packed(local_store: LocalStore, workspace: Path, tmp_path: Path) -> None:
    """By a copy: the same files in another directory. Told otherwise, it is the copy that is kept."""

    def replaced() -> None:
        if not (tmp_path / "before").exists():
            workspace.rename(tmp_path / "before")
            shutil.copytree(tmp_path / "before", workspace)

    with pytest.raises(WorkspaceError, match=rf"it is another directory \(.*no snapshot .* was committed.*{INSISTING}"):
        take(local_store, workspace, at_settle=replaced)
    shutil.rmtree(tmp_path / "before")
    take(local_store, workspace, at_settle=replaced, allow_shrink=True)


def test_the_workspace_is_replaced_before_the_machine_goes(
    local_store: LocalStore, workspace: Path, tmp_path: Path
) -> None:
    """By a directory of the very same files, moved: none of them changed."""
    made = take(local_store, workspace)
    asked = order(workspace, made.id)
    last_look(local_store, made, asked)
    workspace.rename(tmp_path / "before")
    workspace.mkdir()
    for file in (tmp_path / "before").iterdir():
        (workspace / file.name).hardlink_to(file)
        file.unlink()
    with pytest.raises(Refused):
        last_look(local_store, made, asked)


def test_a_mount_comes_or_goes_while_it_is_packed(local_store: LocalStore, workspace: Path, mount: Mount) -> None:
    """What was below it is missing, or hidden. One that is excluded does not count."""
    data = files(mount(workspace / "data"))
    with pytest.raises(WorkspaceError, match=rf"data \(tmpfs\) is mounted no more: .*{INSISTING}"):
        take(local_store, workspace, at_settle=lambda: umount(data))
    with pytest.raises(WorkspaceError, match=r"data \(tmpfs\) was mounted"):
        take(local_store, workspace, at_settle=lambda: mount(data) and None)
    umount(data)
    take(local_store, workspace, at_settle=lambda: mount(data) and None, exclude=("data",))


def test_the_workspace_itself_is_unmounted(local_store: LocalStore, tmp_path: Path, mount: Mount) -> None:
    """An empty directory is what is left of it."""
    workspace = files(mount(tmp_path / "w"))
    with pytest.raises(WorkspaceError, match="it is another directory"):
        take(local_store, workspace, at_settle=lambda: umount(workspace))


def test_a_mount_comes_before_the_machine_goes(local_store: LocalStore, workspace: Path, mount: Mount) -> None:
    """An empty one hides nothing that was packed, and yet something happens there. Insisting helps."""
    (workspace / "data").mkdir()
    made = take(local_store, workspace)
    data = mount(workspace / "data")
    with pytest.raises(Refused, match=rf"data \(tmpfs\) was mounted: machine m1 .* goes on billing; .*{INSISTING}"):
        last_look(local_store, made, order(workspace, made.id))
    last_look(local_store, made, order(workspace, made.id, allow_shrink=True))
    umount(data)
    last_look(local_store, made, order(workspace, made.id))
    assert made.metadata.surroundings is not None and made.metadata.surroundings.root.mounts == ()


def test_a_mount_is_missing_since_an_earlier_snapshot(local_store: LocalStore, workspace: Path, mount: Mount) -> None:
    """Of the same instance, however little was there; asking again does not help, and insisting does. So it is for
    another file system in its place. Another instance has nothing mounted, and is not asked."""

    def slept(instance: str = "i-1", **fields: bool) -> None:
        made = take(local_store, workspace, instance=instance, **fields)
        verify(local_store, made.id)
        check_destroyable(local_store, MACHINE, made.id, instance)

    data = mount(workspace / "data")
    (data / "little").write_text("a little")
    slept()
    umount(data)
    for _ in range(2):
        with pytest.raises(
            Refused, match=rf"mounted in snapshot .*: data \(tmpfs\): .* goes on billing; .*{INSISTING}"
        ):
            slept()
    slept("i-2")
    slept(allow_shrink=True)
    slept()
    files(mount(workspace))
    with pytest.raises(Refused, match="it is on another file system than in snapshot"):
        slept()


def test_the_root_of_the_machine(tmp_path: Path, mount: Mount) -> None:
    """In any spelling, through a link, and where it is mounted once more."""
    for spelled in ("/", "//", "/tmp/..", "/./"):
        with pytest.raises(UsageError, match=r"is the whole machine: name a directory on it"):
            SnapshotOrder(MACHINE, ids.new_snapshot_id(), spelled)
    (tmp_path / "link").symlink_to("/")
    for root in (tmp_path / "link", mount(tmp_path / "again", Path("/"))):
        with pytest.raises(UsageError, match="is the whole machine"), RootWatch(order(root)).scanning():
            pass


@pytest.mark.parametrize("place", ["store", "a/b/store", "."])
def test_a_store_inside_the_workspace(workspace: Path, place: str) -> None:
    """Is refused before it is made; excluded, it is a store like any other."""
    above = (workspace / place).parent
    if above != workspace:
        above.mkdir(parents=True, exist_ok=True)
    store, before = LocalStore(workspace / place), sorted(workspace.rglob("*"))
    with pytest.raises(UsageError, match=r"lies inside the workspace .*, at '.*': .* nothing was written"):
        take(store, workspace)
    assert sorted(workspace.rglob("*")) == before
    if place != ".":
        take(store, workspace, exclude=(place.partition("/")[0],))


def test_a_store_that_is_inside_by_a_link(workspace: Path, tmp_path: Path) -> None:
    """In the path of either; a link in the workspace that leads to a store elsewhere is not followed."""
    (tmp_path / "link").symlink_to(workspace)
    for store, given in ((tmp_path / "link" / "s", workspace), (workspace / "s", tmp_path / "link")):
        with pytest.raises(UsageError, match="at 's': a snapshot would pack the store into itself"):
            take(LocalStore(store), given)
    (workspace / "out").symlink_to(tmp_path / "outside")
    take(LocalStore(tmp_path / "outside"), workspace)


def test_a_store_that_is_inside_by_a_mount(workspace: Path, tmp_path: Path, mount: Mount) -> None:
    """Of a folder of the workspace elsewhere, of the store's folder or a part of it in the workspace."""
    (workspace / "data").mkdir()
    with pytest.raises(UsageError, match="at 'data/s'"):
        take(LocalStore(mount(tmp_path / "elsewhere", workspace / "data") / "s"), workspace)
    store = tmp_path / "kept" / "store"
    store.mkdir(parents=True)
    with pytest.raises(UsageError, match="at 'kept/store'"):
        take(LocalStore(store), mount(workspace / "kept", tmp_path / "kept").parent)
    umount(workspace / "kept")
    (store / "parts").mkdir()
    mount(workspace / "parts", store / "parts")
    with pytest.raises(UsageError, match="at 'parts'"):
        take(LocalStore(store), workspace)
    umount(workspace / "parts")
    take(LocalStore(store), workspace)


def test_a_store_beside_the_workspace(workspace: Path, tmp_path: Path) -> None:
    """One whose name begins alike, and one that holds the workspace, are fine."""
    take(LocalStore(tmp_path / "w-store"), workspace)
    take(LocalStore(tmp_path), workspace)
