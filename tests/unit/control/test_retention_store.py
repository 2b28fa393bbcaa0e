"""Retention of a store: what protects snapshots, whose clock counts, and what is reported."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from poorwill.control.machine.costs import per_month
from poorwill.control.records import catalog, clock, intents, trash
from poorwill.control.records.holdings import Holdings
from poorwill.control.records.intents import Intent
from poorwill.control.records.verified import CheckedPart, Verified, Verifier
from poorwill.control.removal import deletion, live_share, purging, retention
from poorwill.control.removal.retention import NOT_ENDED
from poorwill.control.removal.rotation import Share, rotation
from poorwill.errors import Corrupt, NotFound, Refused, UsageError
from poorwill.snapshot import keys
from poorwill.snapshot.retention_policy import Policy
from poorwill.store.s3.store import S3Store
from tests.support.memory_store import Process
from tests.support.removal_world import GRACE_S, RemovalWorld
from tests.support.runs import MACHINE, take
from tests.support.workspaces import aged, make_large, noise

LAST = Policy(last=1)
ONE, TWO, THREE = (f"20260101T000000Z-0000000{number}" for number in (1, 2, 3))


def world(*pieces: set[int]) -> RemovalWorld:
    """With a whole snapshot of each of these."""
    made = RemovalWorld()
    for wanted in pieces:
        made.act(("whole", "m1", frozenset(wanted)))
    return made


def planned(made: RemovalWorld, **given: Any) -> retention.Plan:
    return retention.plan(Holdings(made.store), LAST, GRACE_S, **given)


def kept(plan: retention.Plan) -> dict[str, tuple[str, ...]]:
    return {verdict.owner[1]: verdict.reasons for verdict in plan.verdicts if verdict.reasons}


def apply(made: RemovalWorld, grace_s: float = GRACE_S) -> purging.Purged:
    holdings = Holdings(made.store)
    return retention.apply(holdings, retention.plan(holdings, LAST, grace_s).going, grace_s)


def verified(made: RemovalWorld, snapshot_id: str, mode: str = "stored", at_s: int = 1_700_000_000) -> None:
    metadata = catalog.read(made.store, "m1", snapshot_id)
    record = Verified(
        machine="m1", snapshot_id=snapshot_id, instance=metadata.instance, manifest=metadata.manifest, mode=mode,
        verified_at_s=at_s, by=Verifier("poorwill", "0", ""), bytes_read=1, chunks_sampled=0,
        parts=tuple(CheckedPart(part.key, part.bytes, not part.borrowed) for part in metadata.parts),
    )  # fmt: skip
    made.store.put(record.key, record.seal())


def test_reasons_to_keep_a_snapshot() -> None:
    """The caller's, its own run, a running wake, and that it is the newest verified one."""
    made = world({1}, {2}, {3}, {4}, {5})
    names = sorted(snapshot_id for _, snapshot_id in catalog.names(made.store))
    made.act(("begin", "m1", frozenset({1}), None))
    made.act(("advance", 0))
    made.act(("advance", 0))  # committed, and not ended
    made.act(("whole", "m1", frozenset({9})))
    verified(made, names[0])
    verified(made, names[3])
    verified(made, names[4], "sample")  # which proves too little
    waking = Intent("poorwill-00000000-m1-000000000000", "m1", names[2], "p", "2026-01-01T00:00:00Z", "", False)
    intents.write(made.store, waking)
    found = kept(planned(made, protected={names[1]: "asleep"}))
    newest = max(snapshot_id for _, snapshot_id in catalog.names(made.store))
    assert found == {
        names[1]: ("asleep",),
        names[2]: ("machine m1 is being woken from it",),
        names[3]: ("last snapshot of those verified",),
        made.live[0].owner[1]: (NOT_ENDED,),
        newest: ("last snapshot",),
    }


def test_the_stores_clock_counts() -> None:
    """The grace period counts by the store's clock, which here is years behind ours."""
    made = world({1}, {2})
    assert apply(made).removed == []
    assert made.store.now_s < 1_800_000_000 and keys.trash("m1", ONE) in made.store.objects
    made.store.now_s += GRACE_S - 1
    assert apply(made).removed == [] and planned(made).in_trash == {("m1", ONE): GRACE_S - 1}
    made.store.now_s += 1
    assert planned(made).expired == {("m1", ONE)}
    assert apply(made).removed == [("m1", ONE)]
    assert not [key for key in made.store.objects if ONE in key or keys.is_clock(key)]


def test_bytes_and_costs_add_up() -> None:
    """What a plan says is freed now and later is what runs free then."""
    made = world({1, 2}, {2, 3}, {3, 4}, {4, 5})
    plan = planned(made)
    assert (plan.stored_bytes, plan.freed_now_bytes, plan.freed_later_bytes) == (5 * 16, 0, 3 * 16)
    assert [verdict.freed_bytes for verdict in plan.verdicts] == [0, 0, 16, 32]
    apply(made)
    made.store.now_s += GRACE_S
    plan = planned(made)
    assert (plan.freed_now_bytes, plan.freed_later_bytes, plan.kept_bytes) == (3 * 16, 0, 16)
    done = apply(made)
    assert (
        done.freed_bytes == 3 * 16
        and done.kept == {("m1", THREE): 16}
        and planned(made).stored_bytes == plan.left_bytes
    )
    assert per_month(200 * 10**9, 0.023) == pytest.approx(4.6)


def test_on_an_s3_server(s3_store: S3Store, tmp_path: Path) -> None:
    """First to the trash, then removed, with an upload without an owner."""
    workspace = aged(make_large(tmp_path / "w", 1))
    first = take(s3_store, workspace, ONE)
    (workspace / "new").write_bytes(noise(400_000, 3))
    second = take(s3_store, aged(workspace), TWO, parent=first.id)
    s3_store.create_upload(keys.part(MACHINE, first.id, 9))
    holdings = Holdings(s3_store)
    going = retention.plan(holdings, LAST, 3600.0).going
    done = retention.apply(holdings, going, 3600.0)
    assert going == [(MACHINE, first.id)] and done.removed == [] and done.uploads_aborted == 1
    assert abs(clock.store_time_s(s3_store) - time.time()) < 300
    trash.undelete(s3_store, first.id)
    assert deletion.delete(s3_store, second.id)["freed_bytes"] == second.totals["sent_bytes"]
    trash.move(s3_store, (MACHINE, first.id))
    done = purging.purge(Holdings(s3_store), 0.0)
    assert done.removed == [(MACHINE, first.id)] and list(s3_store.list("")) == []


def test_runs_that_never_end_are_reported_and_keep_their_parts() -> None:
    """However old they are, until they are given up with force."""
    made = world({1})
    made.act(("begin", "m1", frozenset({1, 2}), None))
    made.act(("advance", 0))
    made.act(("die", 0))
    made.act(("whole", "m1", frozenset({3})))
    made.store.now_s += 100 * GRACE_S
    apply(made)
    made.store.now_s += 100 * GRACE_S
    apply(made)
    owner = made.cut[0].owner
    assert planned(made).stale == {owner: 200 * GRACE_S} and planned(made, stale_s=300 * GRACE_S).stale == {}
    assert keys.part("m1", ONE, 0) in made.store.objects and keys.part(*owner, 0) in made.store.objects
    with pytest.raises(NotFound):
        deletion.delete(made.store, owner[1])
    assert deletion.delete(made.store, owner[1], force=True)["freed_bytes"] == 2 * 16  # and what it borrowed
    apply(made)
    assert {keys.owner_of(key) for key in made.store.objects} == {("m1", THREE)}


def test_a_snapshot_whose_run_has_not_ended_is_not_deleted() -> None:
    """It may be about to destroy the machine."""
    made = RemovalWorld()
    made.act(("begin", "m1", frozenset({1}), None))
    made.act(("advance", 0))
    made.act(("advance", 0))
    with pytest.raises(Refused, match="has not ended"):
        deletion.delete(made.store, ONE)
    made.act(("advance", 0))
    assert deletion.delete(made.store, ONE)["kept_parts"] == [] and made.store.objects == {}


def test_nothing_is_removed_while_something_cannot_be_read() -> None:
    """It may need parts that nothing else does: also a pending record, or one in the trash."""
    for prefix in (keys.SNAPSHOTS, keys.PENDING, keys.TRASH):
        made = world({1}, {2})
        made.act(("begin", "m1", frozenset({1}), None))
        apply(made)
        made.store.now_s += GRACE_S
        key = next(key for key in made.store.objects if key.startswith(prefix))
        data, modified_s = made.store.objects[key]
        made.store.objects[key] = data.replace(b"workspace", b"workspice", 1), modified_s
        before = dict(made.store.objects)
        assert any(key in what for what in planned(made).unreadable)
        with pytest.raises(Refused, match=f"cannot be read: {key}"):
            apply(made)
        assert {k for k in before if k.startswith("parts/")} <= made.store.objects.keys()


def test_an_interrupted_undeletion_can_be_repeated() -> None:
    """At any write; a snapshot that is in the trash again can be undeleted again, and no record is left."""
    for dies_at in range(1, 4):
        made = world({1}, {2})
        trash.move(made.store, ("m1", ONE))
        made.act(("undelete", 0), dies_at)
        assert made.died
        assert trash.undelete(made.store, ONE).snapshot_id == ONE == trash.undelete(made.store, ONE).snapshot_id
        made.act(("undelete", 0))
        assert list(made.store.list(keys.PENDING)) == []
        made.check()


def test_the_mark_of_an_earlier_removal_does_not_shorten_the_grace_period() -> None:
    """It was left by a removal during an undeletion; the snapshot is then removed once more."""
    made = world({1}, {2})
    trash.move(made.store, ("m1", ONE))
    trash.undelete(made.store, ONE)
    made.store.put(keys.removing("m1", ONE), b"")
    apply(made)
    apply(made)
    assert trash.undelete(made.store, ONE).snapshot_id == ONE
    made.check()


def test_an_undeletion_looks_at_every_part() -> None:
    """A missing or another part is an error that names it, and the snapshot stays in the trash."""
    made = world({1}, {2})
    trash.move(made.store, ("m1", ONE))
    part = keys.part("m1", ONE, 0)
    data = made.store.objects.pop(part)
    with pytest.raises(NotFound, match=part):
        trash.undelete(made.store, ONE)
    made.store.put(part, data[0][:5])
    with pytest.raises(Corrupt, match=part):
        trash.undelete(made.store, ONE)
    assert list(made.store.list(keys.PENDING)) == [] and list(made.store.list(keys.SNAPSHOTS)) != []
    with pytest.raises(NotFound):
        trash.undelete(made.store, "20990101T000000Z-00000000")


def test_parts_that_are_hardly_needed() -> None:
    """Parts of removed snapshots are measured; those that cannot be are counted."""
    made = world({1, 2}, {2, 3})
    trash.move(made.store, ("m1", ONE))
    holdings = Holdings(made.store)
    holdings.refresh()
    (share,), unmeasured = live_share.live_shares(holdings)
    assert (share.key, share.live_bytes, share.share, unmeasured) == (keys.part("m1", ONE, 1), 16, 1.0, 0)
    made.store.delete(keys.manifest("m1", TWO))
    assert live_share.live_shares(holdings) == ([], 1)


def test_the_rotation_gives_each_part_to_one_snapshot() -> None:
    """The one that was not read for longest first; parts of removed snapshots with the oldest that needs them."""
    made = world({1, 2}, {2, 3}, {2, 4})
    verified(made, TWO, at_s=1000)
    verified(made, THREE, at_s=500)
    holdings = Holdings(made.store)
    found = rotation(holdings, 2000.0)
    assert [due.owner[1] for due in found.dues] == [ONE, THREE, TWO]
    assert [due.owner[1] for due in found.of(Share.parse("1200s"), 2000.0)] == [ONE, THREE]
    trash.move(made.store, ("m1", ONE))
    found = rotation(holdings, 2000.0)
    by_id = {due.owner[1]: due for due in found.dues}
    assert [len(by_id[each].parts) for each in (TWO, THREE)] == [2, 1] and by_id[TWO].read_at_s == 0
    assert found.budget(Share.parse("50%")) == 3 * 16 / 2
    verified(made, THREE, at_s=5000)  # of the future: not believed
    assert all(due.read_at_s == 0 for due in rotation(holdings, 2000.0).dues)


@pytest.mark.parametrize("text", ["", "0%", "101%", "-1%", "many", "1" * 100])
def test_malformed_shares_are_usage_errors(text: str) -> None:
    """UsageError."""
    with pytest.raises(UsageError):
        Share.parse(text)


def test_uploads_that_nobody_owns_are_aborted() -> None:
    """They are billed, but not listed with objects; those of a run that may go on are left alone."""
    made = world({1})
    for _ in range(2):
        made.act(("begin", "m1", frozenset({2}), None))
        made.act(("advance", 0), 2)  # it dies when the upload is to be completed
    made.store.create_upload("videos/somebody-elses")
    made.act(("forget", 0))
    assert made.died is False and len(made.store.uploads) == 3
    assert apply(made).uploads_aborted == 1
    assert {keys.owner_of(key) for key, _ in made.store.uploads} == {made.cut[1].owner, None}


def test_abandoned_objects_wait_for_the_grace_period_too() -> None:
    """A wake or a verification may still read them."""
    made = world({1})
    made.act(("begin", "m1", frozenset({2}), None))
    made.act(("advance", 0))
    made.act(("die", 0))
    made.act(("forget", 0))
    assert planned(made).abandoned == set() and apply(made).abandoned == []
    made.store.now_s += GRACE_S
    assert apply(made).abandoned == [made.cut[0].owner]


def test_a_clock_object_that_was_left_behind_is_removed() -> None:
    """A day later: the process that wrote it was killed."""
    made = world({1})
    process = Process(made.store)
    process.begin(2, None)
    made.do(("purge", GRACE_S), process)
    assert [key for key in made.store.objects if keys.is_clock(key)]
    made.store.now_s += 2 * 86_400
    purging.purge(Holdings(made.store), GRACE_S)
    assert not [key for key in made.store.objects if keys.is_clock(key)]
