"""Makes the golden snapshots: once for each version of the format, by hand, never by a test.

    python -m tests.golden.make

A snapshot that is committed here is never made again: it is the proof that old ones stay readable. What a new
version of the format needs is added beside it, under a new id.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from deployments.demo.tree_listing import Entry, Listing, list_tree
from poorwill.control.snapshot.lending import doubt_about_backup
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.engine.protocol.answers import MachineFacts
from poorwill.remote.local_host import LocalHost
from poorwill.snapshot.order import SnapshotOrder
from poorwill.store.base import Store
from poorwill.store.local import LocalStore
from tests.support.workspaces import aged, noise, safetensors

HERE = Path(__file__).parent
STORE = HERE / "store"
MACHINE = "golden"
EVERYTHING = "20260101T000000Z-00000001"
WEIGHTS = "20260101T000000Z-00000002"
TEXT = "20260101T000000Z-00000003"
BORROWING = "20260101T000000Z-00000004"
TIME_NS = 1_767_225_600_123_456_789


def expected_listing(snapshot_id: str) -> Path:
    return HERE / f"{snapshot_id}.json"


def to_json(listing: Listing) -> dict[str, dict[str, object]]:
    """A listing as JSON; without what depends on the file system (where it really leaves holes)."""
    return {os.fsencode(path).decode("latin-1"): _fields(entry) for path, entry in listing.items()}


def _fields(entry: Entry) -> dict[str, object]:
    return {
        "mode": entry.mode,
        "mtime_ns": entry.mtime_ns,
        "owner": [entry.uid, entry.gid],
        "xattrs": {name: value.hex() for name, value in entry.xattrs},
        "size": entry.size,
        "content": entry.content,
        "same_as": entry.same_as.decode("latin-1"),
        "target": entry.target.decode("latin-1"),
    }


def make_everything(root: Path) -> None:
    """Every kind of entry, in less than 100 KB."""
    (root / "src" / "deep" / "er").mkdir(parents=True)
    (root / "src" / "main.py").write_text("def main():\n    return 0\n" * 200)
    (root / "src" / "deep" / "er" / "empty").touch()
    (root / "weights.safetensors").write_bytes(safetensors("BF16", 4000, 1))
    (root / "noise.bin").write_bytes(noise(3000))
    os.link(root / "noise.bin", root / "src" / "noise-again.bin")
    os.symlink("../weights.safetensors", root / "src" / "link")
    os.symlink("/nowhere/at all", root / "dangling")
    os.symlink("..", root / "src" / "up")
    os.mkfifo(root / "fifo", 0o640)
    os.chmod(root / "fifo", 0o640)
    for name in (b"not-utf8-\xff", b"new\nline", "猫".encode(), b" ", b"..."):
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(name)
    for mode in (0o400, 0o444, 0o755):
        (root / f"mode-{mode:03o}").write_text("x")
        (root / f"mode-{mode:03o}").chmod(mode)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    _make_sparse(root / "sparse")
    for path in (root / "noise.bin", root / "src"):
        os.setxattr(path, "user.poorwill.note", b"\0golden\xff")
    if os.geteuid() == 0:
        os.chown(root / "mode-755", 1234, 5678)


def _make_sparse(root: Path) -> None:
    root.mkdir()
    with open(root / "only-the-end", "wb") as file:
        file.seek(1 << 20)
        file.write(noise(4096, 2))
    with open(root / "middle", "wb") as file:
        file.seek(512 << 10)
        file.write(noise(4096, 3))
        file.truncate(1 << 20)
    with open(root / "nothing", "wb") as file:
        file.truncate(1 << 20)


def settle_times(root: Path) -> None:
    """Fixed times, one of them before 1970, deepest first; what has them is left alone, so as to stay unchanged."""
    for folder, directories, files in os.walk(os.fsencode(root), topdown=False):
        for number, name in enumerate(sorted([*directories, *files])):
            path, time_ns = os.path.join(folder, name), TIME_NS if number else -TIME_NS
            if abs(os.lstat(path).st_mtime_ns) != TIME_NS:
                os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
    os.utime(root, ns=(TIME_NS, TIME_NS))


def take(store: Store, root: Path, snapshot_id: str, codec: str, parent: str | None = None) -> None:
    """Commit a snapshot, and the listing of what it must restore to."""
    settle_times(root)
    aged(root)
    session = EngineSession(LocalHost())
    try:
        run = SnapshotRun(
            store,
            session,
            SnapshotOrder(MACHINE, snapshot_id, str(root), codec=codec, parent=parent),
            doubt=doubt_about_backup,
        )
        if run.open() is not None:
            raise SystemExit(f"{snapshot_id} is made already, and golden snapshots are never made again")
        session.hello(str(root))
        session.facts = MachineFacts(host="golden")
        run.scan()
        while run.planned:
            for number in run.planned:
                run.pack_part(number)
            run.settle()
        run.write_metadata()
        run.remove_pending()
    finally:
        session.close()
    expected_listing(snapshot_id).write_text(json.dumps(to_json(list_tree(root)), indent=1, sort_keys=True) + "\n")


def main() -> None:
    os.umask(0o022)
    store, folder = LocalStore(STORE), Path("/var/tmp/poorwill-golden")
    shutil.rmtree(folder, ignore_errors=True)
    everything, growing = folder / "everything", folder / "growing"
    everything.mkdir(parents=True)
    growing.mkdir()
    make_everything(everything)
    take(store, everything, EVERYTHING, "zstd")
    (growing / "weights.safetensors").write_bytes(safetensors("BF16", 25_000, 4))
    take(store, growing, WEIGHTS, "planes")
    (growing / "text.md").write_text("A common poorwill sleeps through the winter.\n" * 400)
    take(store, growing, TEXT, "zstd", parent=WEIGHTS)
    (growing / "noise.bin").write_bytes(noise(5000, 5))
    take(store, growing, BORROWING, "raw", parent=TEXT)
    shutil.rmtree(folder)
    shutil.rmtree(STORE / ".uploads", ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
