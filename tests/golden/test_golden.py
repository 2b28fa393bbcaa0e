"""Snapshots made by earlier versions are restored, verified and read as they were meant, by two readers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.demo.tree_listing import list_tree
from poorwill.control.records import catalog
from poorwill.snapshot import manifest
from poorwill.store.local import LocalStore
from tests.golden import make, reader
from tests.support.runs import restore, verify

SNAPSHOTS = (make.EVERYTHING, make.WEIGHTS, make.TEXT, make.BORROWING)


@pytest.fixture
def store() -> LocalStore:
    return LocalStore(make.STORE)


def listed(root: Path, expected: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """The tree below `root` as `expected` has it, but for what this user or file system cannot keep."""
    found = make.to_json(list_tree(root))
    for path, entry in found.items():
        if os.geteuid() != 0 and path in expected:
            entry["owner"] = expected[path]["owner"]
        if path in expected and not _keeps_attributes(root.parent):
            entry["xattrs"] = expected[path]["xattrs"]
    return found


def _keeps_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.poorwill.probe", b"")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("snapshot_id", SNAPSHOTS)
def test_this_version_restores_them(store: LocalStore, snapshot_id: str, tmp_path: Path) -> None:
    """Equal to the listing that was written when they were made, in everything a snapshot keeps."""
    restore(store, snapshot_id, tmp_path / "out")
    expected = json.loads(make.expected_listing(snapshot_id).read_text())
    assert listed(tmp_path / "out", expected) == expected


@pytest.mark.parametrize("snapshot_id", SNAPSHOTS)
def test_a_reader_of_the_documents_alone_reads_them(store: LocalStore, snapshot_id: str, tmp_path: Path) -> None:
    """The minimal reader imports nothing of this package and arrives at the same tree."""
    command = [sys.executable, "-I", reader.__file__, make.STORE, make.MACHINE, snapshot_id, tmp_path / "out"]
    subprocess.run(command, check=True, timeout=60, cwd=tmp_path)
    expected = json.loads(make.expected_listing(snapshot_id).read_text())
    assert listed(tmp_path / "out", expected) == expected


def test_the_reader_is_independent() -> None:
    """Its source names no module of the project."""
    source = Path(reader.__file__).read_text()
    imported = {
        line.split()[1].partition(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))
    }
    assert imported <= set(sys.stdlib_module_names) | {"blake3", "zstandard"}


@pytest.mark.parametrize("snapshot_id", SNAPSHOTS)
def test_they_verify(snapshot_id: str, tmp_path: Path) -> None:
    """Every chunk decodes; on a copy, because a verification writes its record."""
    subprocess.run(["cp", "-r", make.STORE, tmp_path / "store"], check=True, timeout=60)
    record = verify(LocalStore(tmp_path / "store"), snapshot_id, "full")
    assert all(part.read for part in record.parts)


def test_what_they_hold(store: LocalStore) -> None:
    """One borrows from two others and has chunks of three codecs; one has every kind of entry."""
    metadata = catalog.read(store, make.MACHINE, make.BORROWING)
    assert [part.borrowed for part in metadata.parts] == [True, True, False]
    assert metadata.codecs.keys() == {"raw", "zstd", "planes"}
    everything = catalog.read(store, make.MACHINE, make.EVERYTHING)
    found = manifest.decode(store.get(everything.manifest.key), "m")
    assert set(found.entries.kind.tolist()) == set(range(5))
    assert [snapshot_id for _, snapshot_id in catalog.names(store)] == list(SNAPSHOTS)


def test_the_reader_refuses_damage(store: LocalStore, tmp_path: Path) -> None:
    """The rules of the page are in it: no flipped bit in any object gets past it unless the tree is the same."""
    subprocess.run(["cp", "-r", make.STORE, tmp_path / "store"], check=True, timeout=60)
    metadata = catalog.read(store, make.MACHINE, make.BORROWING)
    keys = [part.key for part in metadata.parts] + [metadata.manifest.key]
    for key in keys:
        path = tmp_path / "store" / key
        good = path.read_bytes()
        for at in range(0, len(good), max(1, len(good) // 12)):
            path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
            with pytest.raises(reader.Damaged):
                reader.restore(tmp_path / "store", make.MACHINE, make.BORROWING, tmp_path / "out")
            assert not (tmp_path / "out").exists()
        path.write_bytes(good)
