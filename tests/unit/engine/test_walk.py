"""A workspace that changes while it is walked: what comes and goes is no error, what moves is found."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from poorwill.engine.meter import Meter
from poorwill.engine.pack.file_systems import FileSystems, now_ns
from poorwill.engine.pack.gate import Gate
from poorwill.engine.pack.matching import compare, racy
from poorwill.engine.pack.scan import Scan, Walk
from poorwill.engine.pack.snapshot_run import SnapshotRun
from poorwill.engine.protocol.context import Context
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.tables import Entries, Manifest
from tests.support.runs import order
from tests.support.workspaces import aged

DIRECTORIES = 4
"""What `make` makes, with the root."""


def walked(root: Path, at: dict[int, Callable[[], object]] | None = None) -> Scan:
    """One walk. at: what happens after so many directories were listed."""
    actions, listed = at or {}, [0]

    def count(entries: int) -> None:
        listed[0] += 1
        actions.get(listed[0], lambda: None)()

    return Walk(os.fsencode(root), Globs(()), frozenset(), b"/none", count).run(now_ns())


def paths(entries: Entries) -> list[str]:
    return sorted(os.fsdecode(entries.path(row)) for row in range(1, len(entries)))


def make(root: Path) -> Path:
    for name in ("a", "b", "c"):
        (root / name).mkdir(parents=True)
    (root / "b" / "file").touch()
    return aged(root)


def _replaced(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file now")


@pytest.mark.parametrize("change", [shutil.rmtree, _replaced])
def test_a_directory_that_goes_between_two_listings(tmp_path: Path, change: Callable[[Path], object]) -> None:
    """After its parent's listing and before its own: no error, and the next walk does not have it."""
    root = make(tmp_path / "w")
    found = walked(root, {1: lambda: change(root / "b")})
    assert found.unreadable == [] and paths(found.entries) == ["a", "b", "c"]
    again = walked(root)
    rows = compare(again, found.entries, found.scanned_at_ns).rows
    assert len(again.entries) < len(found.entries) or (rows < 0).any()


def test_a_directory_that_comes_back(tmp_path: Path) -> None:
    """Another one of the same name is walked in its place."""
    root = make(tmp_path / "w")

    def renewed() -> None:
        shutil.rmtree(root / "b")
        (root / "b").mkdir()
        (root / "b" / "other").touch()

    assert paths(walked(root, {1: renewed}).entries) == ["a", "b", "b/other", "c"]


class _Moving(Meter):
    """Moves things at given moments of walks: (number of the walk, directories listed in it)."""

    def __init__(self, moves: dict[tuple[int, int], Callable[[], object]]) -> None:
        super().__init__()
        self.moves, self.walk, self.listed = moves, 1, 0

    def set(self, **counters: int) -> None:
        self.listed += 1
        if self.listed > DIRECTORIES:
            self.walk, self.listed = self.walk + 1, 1
        self.moves.get((self.walk, self.listed), lambda: None)()


def settled(root: Path, meter: Meter) -> Manifest:
    """Of a workspace whose files are all empty: nothing has to be packed."""
    run, context = SnapshotRun(order(root), meter), Context("settle")
    assert run.scan(None, "", [], context).parts == {}
    assert run.settle(context).parts == {}
    return run.settled()


@pytest.mark.parametrize("walk", [1, 2])
def test_a_file_that_moves_to_where_a_walk_has_been(tmp_path: Path, walk: int) -> None:
    """In the first walk or in the one that settles: it is in the snapshot all the same."""
    root = make(tmp_path / "w")
    meter = _Moving({(walk, 2): lambda: (root / "b" / "file").rename(root / "a" / "file")})
    manifest = settled(root, meter)
    assert paths(manifest.entries) == ["a", "a/file", "b", "c"]


def test_a_removal_settles_too(tmp_path: Path) -> None:
    """What went during the first walk is not in the snapshot."""
    root = make(tmp_path / "w")
    assert paths(settled(root, _Moving({(1, 4): (root / "b" / "file").unlink})).entries) == ["a", "b", "c"]


def test_a_file_that_moves_during_the_last_look(tmp_path: Path) -> None:
    """It is found where it went to, though the look had been there already."""
    root = make(tmp_path / "w")
    (root / "b" / "file").rename(tmp_path / "file")
    manifest = settled(aged(root), Meter())
    (tmp_path / "file").rename(root / "b" / "file")
    meter = _Moving({(1, 2): lambda: (root / "b" / "file").rename(root / "a" / "file")})
    assert "a/file" in Gate(order(root), manifest, (), FileSystems(), meter).changes(Context("changed")).paths


def test_directories_that_come_and_go_all_the_time(tmp_path: Path) -> None:
    """What a compiler or a package manager does: a snapshot is taken all the same."""
    root, stop = make(tmp_path / "w"), threading.Event()

    def busy() -> None:
        number = 0
        while not stop.is_set():
            folder = root / f"tmp{number % 4}"
            folder.mkdir()
            time.sleep(0.002)
            shutil.rmtree(folder)
            number += 1

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(5):
            assert "b/file" in paths(settled(root, Meter()).entries)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "new").mkdir(),
        lambda root: (root / "c").rmdir(),
        lambda root: (root / "c").chmod(0o700),
        lambda root: os.setxattr(root / "c", "user.note", b"x"),
        lambda root: (root / "a" / "empty").touch(),
    ],
)
def test_the_gate_sees_directories(tmp_path: Path, change: Callable[[Path], object]) -> None:
    """One that came, went, or changed its mode or attributes; a name that came and went in one changes nothing."""
    root = make(tmp_path / "w")
    manifest, context = settled(root, Meter()), Context("changed")

    def look() -> tuple[str, ...]:
        return Gate(order(root), manifest, (), FileSystems(), Meter()).changes(context).paths

    (root / "c" / "lock").touch()
    (root / "c" / "lock").unlink()
    assert look() == ()
    change(root)
    assert len(look()) == 1


def test_times_are_judged_one_by_one() -> None:
    """A whole second may be a coarse file system's, whatever the others are: it gets two seconds, they get a tick."""
    second, tick = 1_000_000_000, 20_000_000
    entries = Entries.zeros(4)
    entries.ctime_ns = np.array([5 * second, 5 * second + 1, 7 * second - tick, 9 * second], np.int64)
    assert racy(entries, 7 * second - 1).tolist() == [True, False, True, True]
    assert racy(entries, 7 * second + 1).tolist() == [False, False, False, True]
