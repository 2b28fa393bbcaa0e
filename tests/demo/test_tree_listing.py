"""The comparison that the demo and the tests rely on: it must see everything that a restore can get wrong."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.demo import workspace as demo_workspace
from deployments.demo.tree_listing import differences, list_tree, tree_bytes


def _rewrite_keeping_time(path: Path, data: bytes) -> None:
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _fill_hole(root: Path) -> None:
    path = root / "sparse.img"
    _rewrite_keeping_time(path, path.read_bytes())


def _flip_bit(root: Path) -> None:
    path = root / "models/weights-f16.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    _rewrite_keeping_time(path, bytes(data))


def _unlink_hardlink(root: Path) -> None:
    twin = root / "scratch/the same run.sh"
    twin.rename(twin.with_name("kept"))
    shutil.copy2(twin.with_name("kept"), twin)
    twin.with_name("kept").unlink()


def _later(path: Path) -> None:
    found = os.lstat(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1), follow_symlinks=False)


def _retarget(root: Path) -> None:
    (root / "dangling").unlink()
    (root / "dangling").symlink_to("/nowhere/at ALL")


TAMPERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit": (_flip_bit, "weights-f16.safetensors': content"),
    "a hole filled": (_fill_hole, "'sparse.img': data"),
    "a hardlink made a copy": (_unlink_hardlink, "'run.sh': same_as"),
    "a link's target": (_retarget, "'dangling': target"),
    "a link's time": (lambda root: _later(root / "latest.safetensors"), "'latest.safetensors': mtime_ns"),
    "a directory's time": (lambda root: _later(root / "src/json"), "'src/json': mtime_ns"),
    "the root's time": (lambda root: _later(root), "'.': mtime_ns"),
    "a mode": (lambda root: (root / "commands.fifo").chmod(0o600), "'commands.fifo': mode"),
    "a missing file": (lambda root: (root / "odd names/-rf").unlink(), "'odd names/-rf': is missing"),
    "a file too many": (lambda root: (root / "empty/new").touch(), "'empty/new': was not there before"),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's workspace, as small as it gets."""
    root = tmp_path_factory.mktemp("workspace")
    demo_workspace.make(root, demo_workspace.MEGABYTES_MIN)
    return root


@pytest.fixture
def copy(workspace: Path, tmp_path: Path) -> Path:
    """A perfect copy of it: made by cp, because shutil fills holes and parts hardlinks."""
    subprocess.run(["cp", "-a", "--sparse=auto", str(workspace), str(tmp_path / "copy")], check=True, timeout=60)
    return tmp_path / "copy"


def test_a_perfect_copy_is_equal(workspace: Path, copy: Path) -> None:
    """Nothing that a good copy may change, such as inodes and access times, counts as a difference."""
    assert differences(list_tree(workspace), list_tree(copy)) == []


@pytest.mark.parametrize("what", TAMPERS)
def test_what_was_tampered_with_is_named(what: str, workspace: Path, copy: Path) -> None:
    """Every kind of loss is seen, and the line says where and what."""
    tamper, expected = TAMPERS[what]
    tamper(copy)
    assert any(expected in line for line in differences(list_tree(workspace), list_tree(copy)))


def test_an_attribute_and_an_owner_are_named(workspace: Path, copy: Path) -> None:
    """Extended attributes and owners count, where this file system and this user can change them."""
    expected = []
    try:
        os.setxattr(copy / "empty-file", "user.more", b"1")
        expected.append("'empty-file': xattrs")
    except OSError:
        pass  # a file system without them
    if os.geteuid() == 0:
        os.lchown(copy / "dangling", 7, 8)
        expected += ["'dangling': uid", "'dangling': gid"]
    lines = differences(list_tree(workspace), list_tree(copy))
    assert [line.partition(" ")[0] for line in lines if "mtime" in line] == []
    assert all(any(line.startswith(part) for line in lines) for part in expected)


def test_the_workspace_holds_one_of_everything(workspace: Path) -> None:
    """The demo proves something only if its workspace has everything that careless copies lose."""
    listing = list_tree(workspace)
    kinds = {stat.S_IFMT(entry.mode) for entry in listing.values()}
    assert kinds == {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO}
    assert {b"odd names/two\nlines", b"odd names/not \xff\xfe UTF-8", b"empty"} <= listing.keys()
    assert listing[b"scratch/the same run.sh"].same_as == listing[b"run.sh"].same_as == b"run.sh"
    assert len({entry.mtime_ns for entry in listing.values()}) == len(listing) - 1, "only the hardlinks share a time"
    sparse = listing[b"sparse.img"]
    assert sum(end - begin for begin, end in sparse.data) < sparse.size // 100
    assert tree_bytes(listing) > demo_workspace.MEGABYTES_MIN * 980_000


def test_the_same_size_gives_the_same_workspace(workspace: Path, tmp_path: Path) -> None:
    """Seeded: two demos put the same bytes to sleep."""
    demo_workspace.make(tmp_path, demo_workspace.MEGABYTES_MIN)
    assert differences(list_tree(workspace), list_tree(tmp_path)) == []
