"""A restore cut off at any moment continues when it is run again, and ends equal."""

from __future__ import annotations

import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from poorwill.control.records import catalog, manifests
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.journal import HEADER_BYTES
from poorwill.engine.meter import Meter
from poorwill.engine.pool import WorkPool
from poorwill.engine.restore import restore_run
from poorwill.engine.transfer.buffers import BufferPool
from poorwill.engine.transfer.fetch import Reader
from poorwill.errors import EngineLost, Refused, WorkspaceError
from poorwill.snapshot.order import RestoreOrder
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost, WatchedHost
from tests.support.program import poorwill, start
from tests.support.runs import restore, take
from tests.support.trees import differences
from tests.support.workspaces import CHUNK_BYTES, SKIPPED, aged, make_everything, make_large

pytestmark = pytest.mark.long

JOURNAL = ".poorwill-restore"


def begun(store: LocalStore, snapshot_id: str, back: Path, parts: int) -> RestoreRun:
    """A restore whose engine was killed after `parts` parts."""
    host = WatchedHost()
    session = EngineSession(host)
    run = RestoreRun(store, session, catalog.find(store, snapshot_id), RestoreOrder(str(back), privileged=True))
    run.open()
    for row in list(run.parts)[:parts]:
        run.restore_part(row)
    host.kill()
    with pytest.raises(EngineLost):
        run.finish()
    session.close()
    return run


@pytest.mark.parametrize("parts", [0, 1, 3, 4])
def test_sigkill_of_the_engine(local_store: LocalStore, tmp_path: Path, parts: int) -> None:
    """After none, some and all parts: what was written is not fetched again."""
    workspace, back = aged(make_large(tmp_path / "w", 4)), tmp_path / "back"
    taken = take(local_store, workspace, parts=4)
    assert len(taken.own_parts) == 4
    begun(local_store, taken.id, back, parts)
    assert (back / JOURNAL).exists()
    again = restore(local_store, taken.id, back, privileged=True)
    assert again.resumed and again.counters["written_bytes"] <= (4 - parts) * CHUNK_BYTES + 100_000
    assert differences(workspace, back) == []


def test_cut_off_while_it_finishes(local_store: LocalStore, tmp_path: Path) -> None:
    """Links and attributes are there, the journal too: everything is done again, from nothing fetched."""
    workspace, back = aged(make_everything(tmp_path / "w")), tmp_path / "back"
    taken = take(local_store, workspace)
    journal: list[bytes] = []
    host = ThreadHost(before={"finish_restore": lambda request: journal.append((back / JOURNAL).read_bytes())})
    restore(local_store, taken.id, back, privileged=True, host=host)
    (back / JOURNAL).write_bytes(journal[0])
    again = restore(local_store, taken.id, back, privileged=True)
    assert again.resumed and again.counters["written_bytes"] == 0
    assert differences(workspace, back, without=SKIPPED) == []


@pytest.mark.parametrize("chunks", [0, 2])
def test_sigkill_of_the_program(local_store: LocalStore, tmp_path: Path, chunks: int) -> None:
    """With its engine gone by itself, the same command continues."""
    workspace, back = aged(make_large(tmp_path / "w", 4)), tmp_path / "back"
    taken = take(local_store, workspace)
    command = ("restore", taken.id, back, "--store", local_store.url)
    process = start(*command)
    journal = back / JOURNAL
    while process.poll() is None:
        try:
            if journal.stat().st_size >= HEADER_BYTES + 4 * chunks:
                break
        except FileNotFoundError:
            pass
    engines = psutil.Process(process.pid).children() if process.poll() is None else []
    process.kill()
    process.communicate(timeout=30)
    _, alive = psutil.wait_procs(engines, timeout=30)
    assert alive == []
    if not differences(workspace, back):
        return  # it was faster than the kill
    ran = poorwill(*command)
    assert ran.code == 0, ran.err
    assert differences(workspace, back) == []


def test_what_was_interrupted_is_not_mistaken(local_store: LocalStore, tmp_path: Path) -> None:
    """Another snapshot or selection is not mixed into it; no snapshot is taken of it; starting over is allowed."""
    workspace, back = aged(make_large(tmp_path / "w", 4)), tmp_path / "back"
    first = take(local_store, workspace, parts=4)
    (workspace / "3.txt").write_text("new")
    second = take(local_store, aged(workspace))
    begun(local_store, first.id, back, 1)
    for snapshot_id, include in ((second.id, ()), (first.id, ("*.txt",))):
        with pytest.raises(Refused, match="another restore was interrupted there"):
            restore(local_store, snapshot_id, back, include=include)
    with pytest.raises(Refused, match="finish the restore, then take the snapshot"):
        take(local_store, back)
    again = restore(local_store, second.id, back, overwrite=True)
    assert not again.resumed
    assert differences(workspace, back) == []


def test_a_journal_with_nonsense(local_store: LocalStore, tmp_path: Path) -> None:
    """Rows that do not exist and half a row at its end are passed over."""
    workspace, back = aged(make_large(tmp_path / "w", 2)), tmp_path / "back"
    taken = take(local_store, workspace)
    begun(local_store, taken.id, back, 1)
    with open(back / JOURNAL, "ab") as file:
        file.write(b"\xff\xff\xff\xff\xfe\x00\x00\x7f\x01\x02")
    restore(local_store, taken.id, back, privileged=True)
    assert differences(workspace, back) == []


def test_not_enough_disk_is_said_first(local_store: LocalStore, tmp_path: Path) -> None:
    """Need and room in bytes, before anything is written."""
    taken = take(local_store, make_large(tmp_path / "w", 2))

    def small(path: bytes) -> os.statvfs_result:
        real = list(os.statvfs(path))
        real[1], real[4] = 4096, 2 * CHUNK_BYTES // 4096  # the data alone would just fit
        return os.statvfs_result(real)

    manifest = manifests.read(local_store, taken.metadata)
    reader = Reader(WorkPool(1), BufferPool(1 << 20, 4), ThreadPoolExecutor(1))
    with pytest.raises(WorkspaceError, match=r"needs \d+ bytes, 16777216 are free: nothing was restored"):
        restore_run.RestoreRun(
            manifest, taken.metadata.manifest.blake3, RestoreOrder(str(tmp_path / "back")),
            reader=reader, meter=Meter(), statvfs=small,
        )  # fmt: skip
    assert list((tmp_path / "back").iterdir()) == []


def test_a_full_disk(local_store: LocalStore, tmp_path: Path) -> None:
    """A disk that fills up meanwhile: one line that says so, and the same command continues with more room."""
    workspace = aged(make_large(tmp_path / "w", 3))
    taken = take(local_store, workspace)
    command = ("restore", taken.id, tmp_path / "back", "--store", local_store.url)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * CHUNK_BYTES, 2 * CHUNK_BYTES))

    ran = poorwill(*command, preexec_fn=limit)
    assert ran.code == 1
    assert ran.err.startswith("poorwill: large.bin: File too large") and "Traceback" not in ran.err
    assert poorwill(*command).code == 0
    assert differences(workspace, tmp_path / "back") == []
