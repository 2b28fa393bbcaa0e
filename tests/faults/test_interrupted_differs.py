"""A restore over a tree that stands, cut off at any moment: the same command continues, and it ends equal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from poorwill.control.records import catalog, manifests
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.meter import Meter
from poorwill.engine.pool import WorkPool
from poorwill.engine.protocol.context import Context
from poorwill.engine.restore import restore_run
from poorwill.engine.transfer.buffers import BufferPool
from poorwill.engine.transfer.fetch import PathSource, Reader
from poorwill.errors import Cancelled, Refused
from poorwill.remote.base import Host
from poorwill.snapshot.order import RestoreOrder
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost, WatchedHost
from tests.support.runs import Restored, Taken, restore, take
from tests.support.trees import differences
from tests.support.workspaces import CHUNK_BYTES, aged, noise

pytestmark = pytest.mark.long

JOURNAL = ".poorwill-restore"
SMALL = 200_000


@dataclass
class Kept:
    """A snapshot of three parts, what it was taken of, and a tree where all of it stands."""

    workspace: Path
    store: LocalStore
    taken: Taken
    back: Path

    def restore(self, **fields: object) -> Restored:
        return restore(self.store, self.taken.id, self.back, **fields)

    def open(self, host: Host, **fields: object) -> RestoreRun:
        metadata = catalog.find(self.store, self.taken.id)
        run = RestoreRun(self.store, EngineSession(host), metadata, RestoreOrder(str(self.back), **fields))
        run.open()
        return run


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LocalStore, Taken]:
    """One file of two chunks, ten that share a bundle, one with a hole."""
    folder = tmp_path_factory.mktemp("interrupted")
    workspace, store = folder / "w", LocalStore(folder / "store")
    workspace.mkdir(mode=0o755)
    (workspace / "large.bin").write_bytes(noise(CHUNK_BYTES + (1 << 20), 1))
    for number in range(10):
        (workspace / f"{number}.txt").write_bytes(noise(SMALL, number + 10))
    with open(workspace / "sparse.bin", "wb") as file:
        file.write(noise(300_000, 5))
        file.seek(2 << 20)
        file.write(noise(300_000, 6))
    return workspace, store, take(store, aged(workspace), parts=3)


@pytest.fixture
def kept(snapshot: tuple[Path, LocalStore, Taken], tmp_path: Path) -> Kept:
    found = Kept(*snapshot, tmp_path / "back")
    found.restore()
    return found


def edit(back: Path) -> None:
    """Both chunks of the large file, one small file, and data where a hole belongs."""
    for name, offset in (("large.bin", 5), ("large.bin", CHUNK_BYTES + 5), ("3.txt", 7), ("sparse.bin", 1 << 20)):
        with open(back / name, "r+b") as file:
            file.seek(offset)
            file.write(b"changed")


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_sigkill_of_the_engine(kept: Kept, parts: int) -> None:
    """What was patched before is neither fetched nor read again, what still stands is not fetched either; leave to
    overwrite need not be given a second time."""
    edit(kept.back)
    host = WatchedHost()
    run = kept.open(host, overwrite=True)
    fetched = sum(run.restore_part(row).stored_bytes for row in list(run.parts)[:parts])
    host.kill()
    run.session.close()
    assert (kept.back / JOURNAL).exists()
    with pytest.raises(Refused, match="finish the restore"):
        take(kept.store, kept.back)
    again = kept.restore()
    assert again.resumed and again.result["fetched_bytes"] <= run.fetch_bytes_max - fetched
    assert differences(kept.workspace, kept.back) == []


def gone(path: Path) -> None:
    path.unlink()


def shorter(path: Path) -> None:
    os.truncate(path, 10)


def rewritten(path: Path) -> None:
    """In the same size: seen by its times if it is small; larger ones have none before the restore ends."""
    if path.stat().st_size == SMALL:
        path.write_bytes(bytes(SMALL))


def of_another(path: Path) -> None:
    """A hard link of something else with the same times, which must stay as it is."""
    other, info = path.parent.parent / f"other-{path.name}", path.stat()
    other.write_bytes(noise(info.st_size, 99))
    os.utime(other, ns=(info.st_atime_ns, info.st_mtime_ns))
    path.unlink()
    os.link(other, path)


def nearly_done(kept: Kept) -> None:
    """As a restore leaves it that is cut off when it ends: all is in place, and all in the journal."""
    journal = list[bytes]()
    edit(kept.back)
    before = {"finish_restore": lambda request: journal.append((kept.back / JOURNAL).read_bytes())}
    kept.restore(overwrite=True, host=ThreadHost(before=before))
    (kept.back / JOURNAL).write_bytes(journal[0])


@pytest.mark.parametrize("change", [gone, shorter, rewritten, of_another])
def test_what_was_done_and_is_gone(kept: Kept, tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Files lost between the two runs are noticed, whatever the journal says, also by the run after the next."""
    nearly_done(kept)
    for name in ("large.bin", "3.txt"):
        change(kept.back / name)
    others = {path: path.read_bytes() for path in tmp_path.glob("other-*")}
    run = kept.open(ThreadHost())  # and no more: the files may be made anew by now, their chunks are not there
    run.session.close()
    again = kept.restore()
    assert again.resumed and differences(kept.workspace, kept.back) == []
    assert {path: path.read_bytes() for path in others} == others


class Ending(Context):
    """Cancelled at the `checks`-th look."""

    def __init__(self, checks: int) -> None:
        super().__init__("test", 60.0)
        self.checks = checks

    def check(self) -> None:
        self.checks -= 1
        if self.checks < 0:
            raise Cancelled("now")


@dataclass
class Direct:
    """Restores without an engine, so that they can be ended where a test wants."""

    kept: Kept
    pool: WorkPool = field(default_factory=lambda: WorkPool(1))

    def restore(self, context: Context, overwrite: bool) -> None:
        taken, store, meter = self.kept.taken, self.kept.store, Meter()
        manifest = manifests.read(store, taken.metadata)
        restoring = restore_run.RestoreRun(
            manifest, taken.metadata.manifest.blake3, RestoreOrder(str(self.kept.back), overwrite=overwrite),
            context=context, meter=meter, reader=Reader(self.pool, BufferPool(16 << 20, 4), ThreadPoolExecutor(1)),
        )  # fmt: skip
        try:
            for row in range(len(manifest.parts)):
                key = manifest.parts.key(row)
                path = str(store.grant_read(key, expires_s=60).path)
                restoring.part(row, partial(PathSource, path, key, meter), context)
            restoring.finish()
        finally:
            restoring.close()


@pytest.fixture
def direct(kept: Kept) -> Iterator[Direct]:
    found = Direct(kept)
    yield found
    found.pool.close()


def test_cancelled_at_every_look(direct: Direct, tmp_path: Path) -> None:
    """While it opens (stock is taken, a file with another name is copied) and while parts are restored: nothing of
    what was said to be done is missing in the end, and the other name keeps its bytes."""
    kept, other, looks = direct.kept, tmp_path / "other", 0
    while True:
        if looks % 3 == 0:  # begun anew; else continued
            edit(kept.back)
            for path in (kept.back / JOURNAL, other):
                path.unlink(missing_ok=True)
            os.link(kept.back / "large.bin", other)
        before = other.read_bytes()
        try:
            direct.restore(Ending(looks), overwrite=True)
            break
        except Cancelled:
            looks += 1
        finally:
            assert other.read_bytes() == before
    assert looks > 3 and differences(kept.workspace, kept.back) == []


def test_cut_off_while_a_file_is_copied(direct: Direct) -> None:
    """A file whose chunks are done, but which cannot be patched: what is not yet in the new one is done no more."""
    kept = direct.kept
    nearly_done(kept)
    with open(kept.back / "sparse.bin", "r+b") as file:
        file.seek(1 << 20)
        file.write(b"where a hole belongs")
    with pytest.raises(Cancelled):
        direct.restore(Ending(1), overwrite=False)  # the second look is before the first copied byte
    assert (kept.back / "sparse.bin").stat().st_blocks == 0
    again = kept.restore()
    assert again.resumed and differences(kept.workspace, kept.back) == []
