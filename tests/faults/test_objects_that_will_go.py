"""A store that archives or deletes what it holds by itself: the machine stays, and a verification says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from poorwill.control.machine.destruction import check_destroyable
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.errors import Refused, Unsupported
from poorwill.snapshot import keys
from poorwill.store.base import LifecycleRule, ObjectInfo
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.runs import MACHINE, Taken, take, verify
from tests.support.workspaces import aged, make_large

Change = Callable[[ObjectInfo], ObjectInfo]


class FadingStore(LocalStore):
    """A directory that tells of its objects what a bucket would."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.told: dict[str, Change] = {}
        self.rules: tuple[LifecycleRule, ...] = ()

    def head(self, key: str) -> ObjectInfo:
        return self.told.get(key, lambda info: info)(super().head(key))

    def lifecycle(self) -> tuple[LifecycleRule, ...]:
        return self.rules


@pytest.fixture
def store(tmp_path: Path) -> FadingStore:
    return FadingStore(tmp_path / "fading")


@pytest.fixture
def taken(store: FadingStore, tmp_path: Path) -> Taken:
    made = take(store, aged(make_large(tmp_path / "w", 1)))
    verify(store, made.id)
    return made


def archived(info: ObjectInfo) -> ObjectInfo:
    return replace(info, storage_class="GLACIER", archive="GLACIER")


def brought_back(info: ObjectInfo) -> ObjectInfo:
    return replace(archived(info), brought_back=True)


def to_be_deleted(info: ObjectInfo) -> ObjectInfo:
    return replace(info, deletion="the bucket's rule 'tidy' deletes it on Fri, 23 Dec 2026 00:00:00 GMT")


def objects_of(taken: Taken) -> dict[str, str]:
    return {
        "part": taken.own_parts[0],
        "manifest": keys.manifest(MACHINE, taken.id),
        "metadata": keys.metadata(MACHINE, taken.id),
    }


def read_back(store: FadingStore, taken: Taken) -> VerifyRun:
    session = EngineSession(ThreadHost())
    try:
        run = VerifyRun(store, session, taken.metadata)
        run.run_all()
        return run
    finally:
        session.close()


@pytest.mark.parametrize("what", ["part", "manifest", "metadata"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (archived, "is in the archive class GLACIER, from which it has to be brought back"),
        (brought_back, "is in the archive class GLACIER"),
        (to_be_deleted, r"the bucket's rule 'tidy' deletes it on Fri, 23 Dec"),
    ],
)
def test_the_gate_stays_shut(store: FadingStore, taken: Taken, what: str, change: Change, says: str) -> None:
    """For any object that a wake needs. A copy that was brought back goes again: it is no way past."""
    key = objects_of(taken)[what]
    store.told[key] = change
    with pytest.raises(Refused, match=rf"{key}.*{says}.*goes on billing; exclude the store from the bucket's rules"):
        check_destroyable(store, MACHINE, taken.id, "i-1")
    store.told.clear()
    check_destroyable(store, MACHINE, taken.id, "i-1")


def test_a_rule_that_deletes_shuts_the_gate(store: FadingStore, taken: Taken) -> None:
    """Also where the store announces nothing for each object. One that archives later only costs time, and is told."""
    store.rules = (LifecycleRule("tidy", "parts/", True, ""),)
    with pytest.raises(Refused, match=r"the bucket's rule 'tidy' deletes what begins with parts/: .*billing"):
        check_destroyable(store, MACHINE, taken.id, "i-1")
    store.rules = (LifecycleRule("tidy", f"parts/{MACHINE}x/", True, ""), LifecycleRule("cool", "", False, "GLACIER"))
    check_destroyable(store, MACHINE, taken.id, "i-1")
    (said,) = read_back(store, taken).warnings
    assert said.startswith("the bucket's rule 'cool' moves all objects of the store to GLACIER")


@pytest.mark.parametrize("what", ["part", "manifest"])
def test_an_archived_object_cannot_be_verified(store: FadingStore, taken: Taken, what: str) -> None:
    """It says what to do, and leaves the record of what was read before."""
    key = objects_of(taken)[what]
    before = store.get(keys.verified(MACHINE, taken.id))
    store.told[key] = archived
    with pytest.raises(Unsupported, match=rf"{key} is in the archive class GLACIER.*\(restore-object\)"):
        read_back(store, taken)
    assert store.get(keys.verified(MACHINE, taken.id)) == before


@pytest.mark.parametrize("change", [brought_back, to_be_deleted])
def test_what_can_still_be_read_is_verified_with_a_warning(store: FadingStore, taken: Taken, change: Change) -> None:
    """Every byte is as it was; the words are about the days to come."""
    store.told[taken.own_parts[0]] = change
    (said,) = read_back(store, taken).warnings
    assert said.startswith(taken.own_parts[0])
