"""Makes the store that the release before left behind: by the code of that release, by hand, never by a test.

    git worktree add /var/tmp/previous 0eb03b2
    PYTHONPATH=/var/tmp/previous python tests/golden/make_previous.py

It holds a snapshot in the trash, one that lends parts, one that borrows them and was verified, the pending record of
one that was cut off, and the intent of a machine that was never woken. What is committed here is never made again.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

STORE = Path(__file__).parent / "previous"
MACHINE = "previous"
TRASHED, LENDING, BORROWING, CUT_OFF = (f"20260201T000000Z-0000000{number}" for number in range(1, 5))
LABEL = "poorwill-00000000-previous-0123456789ab"
NOTES = b"A common poorwill sleeps through the winter.\n" * 20
DATA = bytes(range(256)) * 8
FILES = {TRASHED: {"notes.md": NOTES[:450]}, LENDING: {"notes.md": NOTES}, BORROWING: {"notes.md": NOTES, "data": DATA}}
"""What each snapshot holds, beside a symbolic link `link` to `notes.md`."""


def module(name: str) -> Any:
    """One of that release, which had it under another name than this one has."""
    return import_module(f"poorwill.control.{name}")


def with_session(work: Callable[[Any], Any]) -> None:
    session = module("session").EngineSession(import_module("poorwill.remote.local_host").LocalHost())
    try:
        session.hello("/")
        session.facts = {"host": "previous", "cores": 2}
        work(session)
    finally:
        session.close()


def take(store: Any, root: Path, snapshot_id: str, codec: str, **labels: Any) -> None:
    """Commit the snapshot of a workspace that holds FILES, in which nothing else is changed."""
    for name, data in FILES[snapshot_id].items():
        if not (root / name).exists() or (root / name).read_bytes() != data:
            (root / name).write_bytes(data)
            os.utime(root / name, (1_767_225_600, 1_767_225_600))
    order = module("taking").Order(MACHINE, snapshot_id, str(root), instance="i-1", codec=codec, **labels)

    def steps(session: Any) -> None:
        run = module("taking").SnapshotRun(store, session, order)
        if run.open() is not None:
            raise SystemExit(f"{snapshot_id} is made already, and golden snapshots are never made again")
        run.scan()
        while run.planned:
            for number in run.planned:
                run.pack_part(number)
            run.settle()
        run.write_metadata()
        run.remove_pending()

    with_session(steps)


def main() -> None:
    os.umask(0o022)
    store = import_module("poorwill.store.local").LocalStore(STORE)
    root = Path("/var/tmp/poorwill-previous")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / "link").symlink_to("notes.md")
    take(store, root, TRASHED, "zstd")
    module("trash").move(store, (MACHINE, TRASHED))
    take(store, root, LENDING, "zstd")
    take(store, root, BORROWING, "raw", parent=LENDING, name="before the upgrade", tags=("a", "b"))
    found = module("catalog").read(store, MACHINE, BORROWING)
    with_session(lambda session: module("verification").VerifyRun(store, session, found).run_all())
    module("pending").PendingRecord(store, MACHINE, CUT_OFF).write(
        workspace=str(root), instance="", parent=BORROWING, borrows=[LENDING, BORROWING]
    )
    intents = module("intents")
    intents.write(store, intents.Intent(LABEL, MACHINE, BORROWING, "rented machines", "2026-02-01T00:00:00Z"))
    shutil.rmtree(root)
    shutil.rmtree(STORE / ".uploads", ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
