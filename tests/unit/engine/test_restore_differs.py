"""A restore onto a tree that holds part of the workspace fetches what differs, and ends equal."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.demo.tree_listing import Listing, list_tree
from deployments.demo.tree_listing import differences as listing_differences
from poorwill.control.records import catalog, manifests
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.restore.survey import since_boot
from poorwill.errors import WorkspaceError
from poorwill.snapshot.order import RestoreOrder
from poorwill.snapshot.tables import Manifest
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.runs import Taken, restore, take
from tests.support.trees import differences
from tests.support.workspaces import CHUNK_BYTES, aged, noise

SIZES = {"large.bin": CHUNK_BYTES + (1 << 20), "medium.bin": 300_000, "small.txt": 900, "sub/deep.txt": 4000}
ZEROS = slice(65_536, 131_072)
"""Zeros in the middle of the larger files, stored as data."""
EDITED = [*SIZES, "sparse", "empty", "hole", "linked", "sub/again", "symlink", "fifo"]


def make_workspace(root: Path) -> Path:
    """Chunks of their own and a bundle, holes, links, attributes; 10 MB."""
    (root / "sub").mkdir(parents=True)
    for number, (name, size) in enumerate(SIZES.items()):
        data = bytearray(noise(size, number))
        data[ZEROS] = bytes(ZEROS.stop - ZEROS.start) if size > ZEROS.stop else data[ZEROS]
        (root / name).write_bytes(data)
    with open(root / "sparse", "wb") as file:
        file.write(noise(300_000, 5))
        file.seek(3 << 20)
        file.write(noise(300_000, 6))
    (root / "empty").touch()
    (root / "hole").touch()
    os.truncate(root / "hole", 3 << 20)
    (root / "linked").write_bytes(noise(2000, 7))
    os.link(root / "linked", root / "sub" / "again")
    os.symlink("small.txt", root / "symlink")
    os.mkfifo(root / "fifo", 0o640)
    (root / "medium.bin").chmod(0o444)
    try:
        os.setxattr(root / "small.txt", "user.kept", b"1")
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    return root


@dataclass
class World:
    """A snapshot, and the tree `back` that is edited and restored over again and again."""

    folder: Path
    store: LocalStore
    taken: Taken
    manifest: Manifest
    expected: Listing
    ruined: bool = True

    @property
    def back(self) -> Path:
        return self.folder / "back"

    @property
    def outside(self) -> Path:
        return self.folder / "outside"

    def whole(self) -> None:
        """Make `back` whole, from nothing if the example before this one failed."""
        if self.ruined:
            shutil.rmtree(self.back, ignore_errors=True)
            restore(self.store, self.taken.id, self.back)
        shutil.rmtree(self.outside, ignore_errors=True)
        self.outside.mkdir()
        self.ruined = True

    def differing(self) -> int:
        """Stored bytes of the chunks of which any byte of any file is not in place."""
        manifest = self.manifest
        wrong = np.zeros(len(manifest.chunks), bool)
        rows, segments = manifest.segment_rows().tolist(), manifest.segments
        places = zip(
            rows, segments.chunk.tolist(), segments.file_offset.tolist(), segments.length.tolist(), strict=True
        )
        for row, chunk, offset, length in places:
            path = manifest.entries.path(row)
            wrong[chunk] |= self._bytes(self.back, path, offset, length) != self._bytes(
                self.folder / "w", path, offset, length
            )
        return int(manifest.chunks.stored[wrong].sum())

    def _bytes(self, root: Path, path: bytes, offset: int, length: int) -> bytes:
        full = root / os.fsdecode(path)
        if full.resolve() != full or not full.is_file():
            return b""
        with open(full, "rb") as file:
            return os.pread(file.fileno(), length, offset)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("differs").resolve()
    umask = os.umask(0o022)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POORWILL_STATE_DIR", str(folder / "state"))
        store = LocalStore(folder / "store")
        taken = take(store, aged(make_workspace(folder / "w")))
        yield World(folder, store, taken, manifests.read(store, taken.metadata), list_tree(folder / "w"))
    os.umask(umask)


@pytest.fixture(autouse=True)
def own_state(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What engines remember is kept as long as `back` is."""
    monkeypatch.setenv("POORWILL_STATE_DIR", str(world.folder / "state"))
    return world.folder / "state"


Edit = Callable[[Path, Path], None]
"""Does something to a file of the tree; the second path is an empty directory outside of it."""


def _replaced(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def flipped(path: Path, outside: Path) -> None:
    """One byte, in the same inode, with the times put back."""
    info = path.stat()
    with open(path, "r+b") as file:
        file.seek(info.st_size // 2)
        byte = file.read(1) or b"\0"
        file.seek(info.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def truncated(path: Path, outside: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def grown(path: Path, outside: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more" * 3000)


def deleted(path: Path, outside: Path) -> None:
    path.unlink()


def zeroed(path: Path, outside: Path) -> None:
    """All of it a hole."""
    size = path.stat().st_size
    _replaced(path, b"")
    os.truncate(path, size)


def filled(path: Path, outside: Path) -> None:
    """No hole left, zeros where they were, but for one byte."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\1" if data else b"\1")


def dense(path: Path, outside: Path) -> None:
    """The same bytes without holes."""
    _replaced(path, path.read_bytes())


def hollow(path: Path, outside: Path) -> None:
    """The same bytes, with a hole for every block of zeros."""
    data = path.read_bytes()
    _replaced(path, b"")
    with open(path, "r+b") as file:
        for at in range(0, len(data), 4096):
            if data[at : at + 4096].strip(b"\0"):
                os.pwrite(file.fileno(), data[at : at + 4096], at)
        file.truncate(len(data))


def to_symlink(path: Path, outside: Path) -> None:
    """To an equal file outside, which must not be taken for the file itself."""
    shutil.copy2(path, outside / "target")
    path.unlink()
    path.symlink_to(outside / "target")


def to_hardlink(path: Path, outside: Path) -> None:
    """Of an equal file outside, with another mode."""
    (outside / "same").write_bytes(path.read_bytes())
    (outside / "same").chmod(0o640)
    path.unlink()
    os.link(outside / "same", path)


def to_hardlink_of_another(path: Path, outside: Path) -> None:
    """Half equal, half not."""
    data = path.read_bytes()
    (outside / "other").write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    path.unlink()
    os.link(outside / "other", path)


def linked_outside(path: Path, outside: Path) -> None:
    """It gains a name outside, and nothing else changes."""
    os.link(path, outside / "name")


def attributes(path: Path, outside: Path) -> None:
    path.chmod(0o755)
    os.utime(path, ns=(1, 1))
    try:
        os.setxattr(path, "user.surplus", b"x")
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise


def to_fifo(path: Path, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory_to_symlink(path: Path, outside: Path) -> None:
    """It moves outside, and a symlink leads there."""
    os.rename(path, outside / "moved")
    path.symlink_to(outside / "moved")


ON_FILES: list[Edit] = [
    flipped, truncated, grown, zeroed, filled, dense, hollow, to_symlink, to_hardlink, to_hardlink_of_another,
    linked_outside,
]  # fmt: skip
ON_ALL: list[Edit] = [deleted, attributes, to_fifo]


def edit(world: World, name: str, change: Edit, number: int) -> None:
    path, outside = world.back / name, world.outside / str(number)
    if change in ON_FILES and (path.is_symlink() or not path.is_file()):
        return
    if os.path.lexists(path) and not (change is attributes and path.is_symlink()):
        outside.mkdir()
        change(path, outside)


def restored_equal(world: World) -> None:
    """Restore over the edited tree: it ends equal, at most the chunks that differ are fetched, and all else is kept."""
    before, differing = without_link_counts(list_tree(world.outside)), world.differing()
    again = restore(world.store, world.taken.id, world.back, overwrite=True)
    assert listing_differences(world.expected, list_tree(world.back)) == []
    assert without_link_counts(list_tree(world.outside)) == before
    assert (world.back / "linked").stat().st_nlink == 2
    assert again.result["fetched_bytes"] <= differing
    assert again.result["kept_bytes"] + again.counters["written_bytes"] == again.result["raw_bytes"]
    world.ruined = False


@pytest.mark.parametrize("change", [*ON_FILES, *ON_ALL])
def test_every_file_edited(world: World, change: Edit) -> None:
    """Every file in the same way: the tree ends equal, and what lies outside of it is untouched."""
    world.whole()
    for number, name in enumerate(EDITED):
        edit(world, name, change, number)
    restored_equal(world)


EDITS = st.lists(st.tuples(st.sampled_from(EDITED), st.sampled_from([*ON_FILES, *ON_ALL])), max_size=5)


@given(edits=EDITS, moved=st.booleans(), forgotten=st.booleans())
@settings(max_examples=10)
@example(edits=[], moved=True, forgotten=False)
def test_any_edits(world: World, edits: list[tuple[str, Edit]], moved: bool, forgotten: bool) -> None:
    """Whatever was done to the tree, also when a directory was moved away and a symlink leads there, and with and
    without what the last restore remembered."""
    world.whole()
    for number, (name, change) in enumerate(edits):
        edit(world, name, change, number)
    if moved:
        directory_to_symlink(world.back / "sub", world.outside)
    if forgotten:
        shutil.rmtree(world.folder / "state", ignore_errors=True)
    restored_equal(world)


def without_link_counts(listing: Listing) -> Listing:
    """A listing tells which files have several names; names inside the workspace come and go."""
    return {path: replace(entry, same_as=b"") for path, entry in listing.items()}


def opened(world: World) -> RestoreRun:
    session = EngineSession(ThreadHost())
    order = RestoreOrder(str(world.back), overwrite=True)
    run = RestoreRun(world.store, session, catalog.find(world.store, world.taken.id), order)
    run.open()
    return run


def inodes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_ino for path in root.rglob("*")}


@pytest.mark.parametrize("remembered", [True, False])
def test_the_same_snapshot_again(world: World, remembered: bool) -> None:
    """Nothing is fetched or written and every inode stays; while it is remembered, nothing is even read."""
    world.whole()
    before = inodes(world.back)
    if not remembered:
        shutil.rmtree(world.folder / "state")
    run = opened(world)
    assert (run.parts == {}) == remembered
    assert run.fetch_bytes_max == (0 if remembered else world.taken.totals["stored_bytes"])
    for row in run.parts:
        assert run.restore_part(row).stored_bytes == 0
    result, counters = run.finish(), run.session.counters
    run.session.close()
    assert result.fetched_bytes == counters["written_bytes"] == 0
    assert result.kept_bytes == counters["kept_bytes"] == result.raw_bytes
    assert inodes(world.back) == before
    assert listing_differences(world.expected, list_tree(world.back)) == []
    world.ruined = False


def test_one_byte_of_a_large_file(world: World) -> None:
    """One chunk is fetched, and said to be all when the restore is opened; the file is patched where it lies."""
    world.whole()
    before = inodes(world.back)
    flipped(world.back / "large.bin", world.outside)
    differing = world.differing()
    run = opened(world)
    assert differing <= run.fetch_bytes_max < world.taken.totals["stored_bytes"]
    fetched = sum(run.restore_part(row).stored_bytes for row in run.parts)
    result = run.finish()
    run.session.close()
    assert fetched == result.fetched_bytes == differing
    assert inodes(world.back) == before
    assert listing_differences(world.expected, list_tree(world.back)) == []
    world.ruined = False


def test_set_id_bits_later(local_store: LocalStore, tmp_path: Path) -> None:
    """A restore that may set them, over one that might not: files it need not read get them all the same."""
    workspace, back = tmp_path / "w", tmp_path / "back"
    workspace.mkdir()
    (workspace / "tool").write_text("#!/bin/sh\n")
    (workspace / "tool").chmod(0o4755)
    taken = take(local_store, aged(workspace))
    assert restore(local_store, taken.id, back).result["left_out_count"] == 1
    again = restore(local_store, taken.id, back, overwrite=True, privileged=True)
    assert again.parts == [] and again.result["left_out_count"] == 0
    assert differences(workspace, back) == []


def test_paths_outside_include_stay(world: World) -> None:
    """With --include the rest of the tree is as it was, also the other name of a file that is wanted."""
    world.whole()
    for name in ("linked", "large.bin", "small.txt"):
        flipped(world.back / name, world.outside)
    before = list_tree(world.back)
    restore(world.store, world.taken.id, world.back, overwrite=True, include=("linked",))
    after = list_tree(world.back)
    assert {path for path in after if after[path] != before[path]} - {b""} == {b"linked", b"sub/again"}
    assert after[b"linked"].content == world.expected[b"linked"].content
    assert after[b"sub/again"].content == before[b"sub/again"].content


def test_a_directory_in_the_way(world: World) -> None:
    """Is found before any file is changed; it stays with all it holds."""
    world.whole()
    flipped(world.back / "large.bin", world.outside)
    changed = (world.back / "large.bin").read_bytes()
    (world.back / "small.txt").unlink()
    (world.back / "small.txt").mkdir()
    (world.back / "small.txt" / "mine").write_text("mine")
    with pytest.raises(WorkspaceError, match=r"small\.txt: a directory is in the way"):
        restore(world.store, world.taken.id, world.back, overwrite=True)
    assert (world.back / "small.txt" / "mine").read_text() == "mine"
    assert (world.back / "large.bin").read_bytes() == changed


def test_a_program_that_runs(local_store: LocalStore, tmp_path: Path) -> None:
    """It cannot be written: it becomes a new file, with what is equal copied, and goes on running."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    workspace, back = tmp_path / "w", tmp_path / "back"
    workspace.mkdir()
    (workspace / "program").write_bytes(Path(sleep).read_bytes() + noise(CHUNK_BYTES + 600_000, 1))
    (workspace / "program").chmod(0o755)
    first = take(local_store, aged(workspace))
    with open(workspace / "program", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"new!")
    second = take(local_store, aged(workspace))
    restore(local_store, first.id, back)
    with subprocess.Popen([back / "program", "60"]) as process:
        running = os.stat(f"/proc/{process.pid}/exe").st_ino
        again = restore(local_store, second.id, back, overwrite=True)
        assert process.poll() is None and (back / "program").stat().st_ino != running
        process.kill()
    assert 0 < again.result["fetched_bytes"] < CHUNK_BYTES <= again.result["kept_bytes"]
    assert differences(workspace, back) == []


def test_the_same_bytes_elsewhere(local_store: LocalStore, tmp_path: Path) -> None:
    """A chunk that a second file holds is copied from there, whichever of the two is wrong."""
    workspace, back, size = tmp_path / "w", tmp_path / "back", 4 << 20
    workspace.mkdir()
    for name in ("a.bin", "b.bin"):
        (workspace / name).write_bytes(noise(size, 3))
    taken = take(local_store, aged(workspace))
    restore(local_store, taken.id, back)
    for wrong in (deleted, flipped):
        wrong(back / ("a.bin" if wrong is deleted else "b.bin"), tmp_path)
        again = restore(local_store, taken.id, back, overwrite=True)
        assert again.result["fetched_bytes"] == 0 and again.counters["written_bytes"] == size
        assert differences(workspace, back) == []


def test_an_empty_directory_is_not_looked_at(local_store: LocalStore, tmp_path: Path) -> None:
    """Overwriting may be allowed all the same: a wake allows it on every new machine."""
    taken = take(local_store, aged(make_workspace(tmp_path / "w")))
    host = ThreadHost()
    restore(local_store, taken.id, tmp_path / "back", overwrite=True, host=host)
    assert host.operations._restore is not None and host.operations._restore._in_place is None
    assert differences(tmp_path / "w", tmp_path / "back") == []


def test_a_restart_of_the_machine_clears_the_memory() -> None:
    """What was remembered before the machine went down is not relied on: its pages may never have been written."""
    assert since_boot(time.time_ns()) and not since_boot(10**9)
