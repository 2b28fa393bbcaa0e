"""How long the last look at a workspace takes before its machine goes, and the snapshot before it.

`python -m bench.gate [FILES [FOLDER]]`: two versions are compared by turns, on a quiet machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from poorwill.control.machine.destruction import check_unchanged
from poorwill.control.records import catalog
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.remote.local_host import LocalHost
from poorwill.snapshot import ids
from poorwill.snapshot.order import SnapshotOrder
from poorwill.store.local import LocalStore

FILES, PER_FOLDER, LOOKS = 300_000, 500, 5


def measure(folder: Path, files: int) -> None:
    """Makes the files, takes their snapshot, and looks again, printing seconds."""
    workspace = folder / "w"
    for number in range(files):
        path = workspace / str(number // PER_FOLDER) / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
    store, session = LocalStore(folder / "store"), EngineSession(LocalHost())
    # What other processes have open does not end the measurement.
    order = SnapshotOrder("bench", ids.new_snapshot_id(), str(workspace), instance="i", writers="ignore")
    run = SnapshotRun(store, session, order)

    def take() -> None:
        run.open()
        run.scan()
        while run.planned:
            for part in list(run.planned):
                run.pack_part(part)
            run.settle()
        run.write_metadata()

    try:
        print(f"snapshot of {files} files: {_wall_s(take):.2f} s")
        metadata = catalog.read(store, order.machine, order.snapshot_id)
        walls = [_wall_s(lambda: check_unchanged(store, session, order, metadata)) for _ in range(LOOKS)]
        print(f"last look: {min(walls):.2f} s at best, {sorted(walls)[LOOKS // 2]:.2f} s in the middle of {LOOKS}")
    finally:
        session.close()


def _wall_s(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="gate-", dir=sys.argv[2] if len(sys.argv) > 2 else None) as name:
        measure(Path(name), int(sys.argv[1]) if len(sys.argv) > 1 else FILES)
