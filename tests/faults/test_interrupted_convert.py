"""A conversion cut off at any moment: nothing is committed, and the next run reads and writes only what is missing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from poorwill.control.records import catalog
from poorwill.control.records.holdings import Holdings
from poorwill.control.removal import deletion, retention
from poorwill.control.snapshot.convert_run import ConvertRun
from poorwill.control.snapshot.session import EngineSession
from poorwill.errors import EngineLost, StoreUnavailable
from poorwill.remote.base import Channel
from poorwill.snapshot import ids, keys
from poorwill.snapshot.retention_policy import Policy
from poorwill.store.base import Store
from poorwill.store.local import LocalStore
from poorwill.store.s3.store import S3Store
from tests.support.engines import ThreadHost
from tests.support.hooked_store import hooked
from tests.support.needing_codec import NeedingToolset
from tests.support.runs import MACHINE, Converted, Taken, convert, part_objects, restore, take
from tests.support.trees import differences
from tests.support.workspaces import aged, safetensors

pytestmark = pytest.mark.long

FILES = 5
OLD = "20260101T000000Z-00000001"
# A control side, its engine on a thread, that ends itself, as SIGKILL would end it, at the n-th call of a method of the
# store.
KILLED = """
import os, signal, sys
from pathlib import Path
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.hooked_store import hooked
from tests.support.needing_codec import NeedingToolset
from tests.support.runs import convert
root, source, new_id, side, method, call = Path(sys.argv[1]), *sys.argv[2:6], int(sys.argv[6])
def end(key, count):
    if count == call:
        os.kill(os.getpid(), signal.SIGKILL)
store = hooked(LocalStore(root), **{side: {method: end}})
convert(store, source, new_id, host=ThreadHost(toolset=NeedingToolset()))
"""


class Losing(ThreadHost):
    """With its channel at hand, to end the engine."""

    channel: Channel

    def start(self) -> Channel:
        self.channel = super().start()
        return self.channel


def able() -> ThreadHost:
    return ThreadHost(toolset=NeedingToolset())


def begun(store: Store, root: Path) -> Taken:
    """A snapshot that needs more than a CPU, of as many chunks, which go into three parts."""
    root.mkdir()
    for number in range(FILES):
        (root / f"{number}.safetensors").write_bytes(safetensors("BF16", 2_100_000, number))
    return take(store, aged(root), OLD, host=able())


def stopped(store: Store, old: Taken, call: int) -> str:
    """The id of a conversion that ended when its n-th part was complete in all but name."""
    new_id = ids.id_behind(old.id)

    def stop(key: str, count: int) -> None:
        if count == call:
            raise StoreUnavailable("stopped")

    with pytest.raises(StoreUnavailable):
        convert(hooked(store, before={"complete_upload": stop}), old.id, new_id, host=able())
    return new_id


def check_continued(store: Store, old: Taken, new_id: str, root: Path, back: Path) -> Converted:
    """Continue: finished parts stay the objects they are, and are not made again; the end is the same."""
    assert list(catalog.names(store)) == [(MACHINE, old.id)]
    before = part_objects(store)
    own = {key for key in before if key.startswith(keys.parts_of(MACHINE, new_id))}
    new = convert(store, old.id, new_id, host=able())
    after = part_objects(store)
    assert {key: after.get(key) for key in before} == before
    assert own <= {part.key for part in new.metadata.parts}
    assert new.counters["checked_bytes"] == new.run.work.stored_bytes
    assert (new.run.work.stored_bytes < old.totals["stored_bytes"]) == bool(own)
    assert list(store.list(keys.PENDING)) == []
    restore(store, new_id, back)
    assert differences(root, back) == []
    return new


@pytest.mark.parametrize(
    ("side", "method", "call"),
    [
        ("after", "put", 1),  # the pending record is there
        ("after", "complete_upload", 2),  # parts, and bytes of others
        ("after", "put", 2),  # the manifest, no metadata
    ],
)
def test_sigkill(local_store: LocalStore, tmp_path: Path, side: str, method: str, call: int) -> None:
    """Of the whole process; the new snapshot is not there, the old one is as it was."""
    old = begun(local_store, tmp_path / "w")
    new_id = ids.id_behind(old.id)
    root = local_store.url.removeprefix("file://")
    command = [sys.executable, "-c", KILLED, root, old.id, new_id, side, method, str(call)]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=60)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert [found.key for found in local_store.list(keys.PENDING)] == [keys.pending(MACHINE, new_id)]
    check_continued(local_store, old, new_id, tmp_path / "w", tmp_path / "back")


def test_the_engine_is_lost(local_store: LocalStore, tmp_path: Path) -> None:
    """Between two parts: the run ends with EngineLost, and another engine continues it."""
    old = begun(local_store, tmp_path / "w")
    new_id, host = ids.id_behind(old.id), Losing(toolset=NeedingToolset())

    def end(key: str, count: int) -> None:
        if count == 2:
            host.channel.close()

    with pytest.raises(EngineLost):
        convert(hooked(local_store, after={"complete_upload": end}), old.id, new_id, host=host)
    check_continued(local_store, old, new_id, tmp_path / "w", tmp_path / "back")


def test_an_upload_that_was_not_completed(s3_store: S3Store, tmp_path: Path) -> None:
    """Its pieces are dropped by the run that continues, and finished parts are kept."""
    old = begun(s3_store, tmp_path / "w")
    new_id = stopped(s3_store, old, 2)
    check_continued(s3_store, old, new_id, tmp_path / "w", tmp_path / "back")
    assert list(s3_store.list_uploads("")) == []


def test_a_part_that_fails_is_tried_alone(s3_store: S3Store, tmp_path: Path) -> None:
    """The same session writes one part again, after its upload could not be completed; no upload is left behind."""
    old = begun(s3_store, tmp_path / "w")
    failed: list[str] = []

    def fail_once(key: str, count: int) -> None:
        if count == 2:
            failed.append(key)
            raise StoreUnavailable("try again")

    session = EngineSession(able())
    try:
        session.hello("/")
        store = hooked(s3_store, before={"complete_upload": fail_once})
        run = ConvertRun(store, session, old.metadata, ids.id_behind(old.id))
        run.open()
        for number in run.planned:
            try:
                run.convert_part(number)
            except StoreUnavailable:
                run.convert_part(number, attempt=2)
        run.write_metadata()
        run.remove_pending()
    finally:
        session.close()
    assert len(failed) == 1 and list(s3_store.list_uploads("")) == []
    restore(s3_store, run.snapshot_id, tmp_path / "back")
    assert differences(tmp_path / "w", tmp_path / "back") == []


def test_a_finished_part_that_is_damaged(local_store: LocalStore, tmp_path: Path) -> None:
    """A part whose index does not fit is written again."""
    old = begun(local_store, tmp_path / "w")
    new_id = stopped(local_store, old, 3)
    own = [key for key in part_objects(local_store) if key.startswith(keys.parts_of(MACHINE, new_id))]
    local_store.put(own[0], local_store.get(own[0])[:-3])
    convert(local_store, old.id, new_id, host=able())
    restore(local_store, new_id, tmp_path / "back")
    assert differences(tmp_path / "w", tmp_path / "back") == []


def test_retention_between_the_runs(local_store: LocalStore, tmp_path: Path) -> None:
    """However strict it is, it keeps what is being converted and what was written by then."""
    old = begun(local_store, tmp_path / "w")
    new_id = stopped(local_store, old, 3)
    (tmp_path / "other").mkdir()
    later = take(local_store, tmp_path / "other")
    before = part_objects(local_store)
    holdings = Holdings(local_store)
    plan = retention.plan(holdings, Policy(last=1).check(), 0)
    assert [verdict.reasons[-1] for verdict in plan.verdicts if verdict.owner[1] == old.id] == [
        f"it is being converted into {new_id}"
    ]
    retention.apply(holdings, plan.going, 0)
    assert part_objects(local_store) == before
    deletion.delete(local_store, later.id)
    check_continued(local_store, old, new_id, tmp_path / "w", tmp_path / "back")
    assert retention.plan(holdings, Policy(last=1).check(), 0).going == [(MACHINE, old.id)]
