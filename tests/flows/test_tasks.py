"""Tasks by themselves: what destroying demands, what is retried, what is shown."""

from __future__ import annotations

import base64
import os
import re
import shutil
import threading
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, task
from prefect.states import Failed
from pydantic import SecretStr

import blocks
from blocks import lookup
from poorwill.errors import (
    Corrupt,
    DeadlineExceeded,
    EngineLost,
    NotFound,
    PoorwillError,
    Refused,
    StoreRefused,
    StoreUnavailable,
    UsageError,
)
from poorwill.snapshot import keys
from poorwill.snapshot.order import SnapshotOrder
from tasks import retries
from tasks.destroy_instance import destroy_instance
from tasks.progress import ProgressArtifacts, generating, packing, restoring
from tasks.reports import charts
from tasks.sessions import sessions
from tests.support.flow_world import SNAPSHOT_ID, World
from tests.support.runs import take, verify
from tests.support.workspaces import aged


def one_file(workspace: Path) -> None:
    (workspace / "file").write_text("content")


def snapshot(world: World, verified_by: str = "stored") -> Path:
    """A machine, and a snapshot of it, committed and verified; without the flow, which takes seconds."""
    workspace = world.machine(one_file)
    take(world.store, aged(workspace), SNAPSHOT_ID, machine=world.name, instance=world.block().instance)
    verify(world.store, SNAPSHOT_ID, verified_by)
    return workspace


def destroy(world: World) -> dict[str, Any]:
    order = SnapshotOrder(world.name, SNAPSHOT_ID, "/workspace")
    try:
        return dict(destroy_instance.fn(world.name, world.store_name, order))
    finally:
        sessions.close(SNAPSHOT_ID)


class TestDestroying:
    """Called by itself, `destroy_instance` demands everything that `hibernate` ensures."""

    def test_without_a_snapshot(self, world: World) -> None:
        """Nothing was ever taken: refused, and the machine is named as billing."""
        world.machine(one_file)
        with pytest.raises(Refused, match="goes on billing"):
            destroy(world)
        assert world.provider.exists(world.block().instance)

    def test_without_a_verification_record(self, world: World) -> None:
        """Committed, and even verified once, but the record is gone."""
        snapshot(world)
        world.store.delete(keys.verified(world.name, SNAPSHOT_ID))
        with pytest.raises(Refused, match="not committed and verified"):
            destroy(world)
        assert world.provider.exists(world.block().instance)

    def test_with_a_sample_alone(self, world: World) -> None:
        """A few chunks that could be read say nothing of the rest."""
        snapshot(world, verified_by="sample")
        with pytest.raises(Refused, match="sample"):
            destroy(world)
        assert world.provider.exists(world.block().instance)

    def test_of_another_instance(self, world: World) -> None:
        """The snapshot is of the instance the block named before: this one was never saved."""
        snapshot(world)
        world.machine(one_file)
        with pytest.raises(Refused, match="was not destroyed"):
            destroy(world)
        assert world.provider.exists(world.block().instance)

    def test_with_a_part_that_is_gone(self, world: World) -> None:
        """What the record says was there then; it is asked for again now."""
        snapshot(world)
        world.store.delete(world.keys("parts/")[0])
        with pytest.raises((Refused, NotFound), match="parts/"):
            destroy(world)
        assert world.provider.exists(world.block().instance)

    def test_with_a_workspace_that_changed(self, world: World) -> None:
        """One byte more since the scan is somebody's work."""
        workspace = snapshot(world)
        (workspace / "file").write_text("content!")
        with pytest.raises(Refused, match=r"changed since.*\bfile\b"):
            destroy(world)
        assert world.provider.exists(world.block().instance)

    def test_once_all_is_proved(self, world: World) -> None:
        """Then it destroys, and a repeated call finds it done."""
        snapshot(world)
        instance = world.block().instance
        assert destroy(world).items() >= {"instance": instance, "destroyed": True}.items()
        assert not world.provider.exists(instance) and os.listdir(world.provider.root) == []
        assert world.block().status == "asleep"


@pytest.mark.parametrize(
    ("error", "reaching", "continuing", "packing_"),
    [
        (StoreUnavailable("x"), True, True, True),
        (DeadlineExceeded("x"), True, True, True),
        (EngineLost("x"), True, False, False),
        (NotFound("x"), False, False, True),
        (StoreRefused("x"), False, False, False),
        (Corrupt("x"), False, False, False),
        (ValueError("x"), False, False, False),
    ],
)
def test_what_is_retried(error: Exception, reaching: bool, continuing: bool, packing_: bool) -> None:
    """Transient errors alone; a lost engine only by steps that start one, a lost upload only by packing."""
    state = Failed(data=error)
    assert retries.transient(None, None, state) is reaching
    assert retries.transient_with_engine(None, None, state) is continuing
    assert retries.transient_or_upload_gone(None, None, state) is packing_


def test_prefect_follows_the_policy(world: World) -> None:
    """In a real run a transient error is tried again until it passes, a permanent one is not."""
    calls: list[str] = []
    quick = {**retries.policy(), "retry_delay_seconds": 0}

    @task(**quick)
    def transient_twice() -> str:
        calls.append("transient")
        if calls.count("transient") < 3:
            raise StoreUnavailable("later")
        return "done"

    @task(**quick)
    def permanent() -> None:
        calls.append("permanent")
        raise StoreRefused("never")

    @flow
    def both() -> str:
        with pytest.raises(StoreRefused):
            permanent()
        return str(transient_twice())

    assert both() == "done"
    assert calls == ["permanent", "transient", "transient", "transient"]


def test_progress_survives_a_prefect_that_does_not_answer() -> None:
    """Progress that cannot be shown is no reason to fail, and its thread ends."""

    def refuse(**_: Any) -> UUID:
        raise ConnectionError("no")

    with ProgressArtifacts(
        partial(sessions.counters, "no-such-run"), partial(packing, 100), create=refuse, update=refuse
    ):
        pass
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_progress_is_updated_when_it_ends() -> None:
    """However short the run, the last percentages are shown; equal ones are not sent twice."""
    shown: list[float] = []

    def update(artifact_id: UUID, progress: float, description: str) -> None:
        shown.append(progress)

    nothing = partial(sessions.counters, "no-such-run")
    with ProgressArtifacts(nothing, partial(restoring, 0, 10), create=lambda **_: uuid4(), update=update):
        pass
    assert sorted(shown) == [0.0, 100.0]


def test_progress_tells_the_time_to_go() -> None:
    """Half of the way from the first sign in 10 s leaves 10 s; nothing is promised before two signs, nor at the end."""
    done, told = iter([0, 0, 20, 60, 100]), list[tuple[float, str]]()
    now_s = iter([100.0, 110.0])

    def update(artifact_id: UUID, progress: float, description: str) -> None:
        told.append((progress, description))

    progress = ProgressArtifacts(
        lambda: {"steps": next(done)}, partial(generating, 100, 1),
        create=lambda **_: uuid4(), update=update, clock=lambda: next(now_s),
    )  # fmt: skip
    progress._artifacts["denoised"] = uuid4()
    for _ in range(5):
        progress._show(progress._sample())
    assert told == [
        (0.0, "denoised 0/100 steps"), (20.0, "denoised 20/100 steps"), (60.0, "denoised 60/100 steps; 10 s to go"),
        (100.0, "denoised 100/100 steps"),
    ]  # fmt: skip


def test_uploaded_never_runs_ahead_of_compressed() -> None:
    """What was sent is measured against what was coded so far; no counters give nothing, not an error."""

    def percents(pack_bytes: int, **counters: int) -> dict[str, float]:
        return {progress.step: progress.percent for progress in packing(pack_bytes, counters)}

    assert percents(1000)["uploaded"] == 0.0
    assert percents(1000, read_bytes=500)["compressed"] == 50.0
    assert percents(1000, read_bytes=500, coded_bytes=100, sent_bytes=50)["uploaded"] == 25.0
    assert percents(1000, read_bytes=2000, coded_bytes=100, sent_bytes=200)["uploaded"] == 100.0
    assert percents(0)["compressed"] == 100.0


class TestCharts:
    """Pictures are well-formed for any input."""

    def test_lines_and_bars_are_xml(self) -> None:
        """Names are escaped, empty input draws an empty chart."""
        for svg in (
            charts.line_chart("t <&>", [("a<b", [(0.0, 1e6), (2.0, 3e6)]), ("none", [])], "MB/s", 1e6),
            charts.line_chart("t", [], "MB/s"),
            charts.bar_chart("t", [(".a&b", 1.5, "1.5"), ("zero", 0.0, "-")]),
            charts.bar_chart("t", []),
        ):
            assert ElementTree.fromstring(svg).tag.endswith("svg")

    def test_rates_are_differences_and_bounded(self) -> None:
        """Sums become amounts per second; a sum that begins anew counts 0; thousands of samples are thinned."""
        assert charts.rates([(0.0, 0), (1.0, 10), (3.0, 50), (4.0, 0)]) == [(1.0, 10.0), (3.0, 20.0), (4.0, 0.0)]
        assert charts.rates([(0.0, 5)]) == []
        assert len(charts.rates([(float(n), n) for n in range(20_000)])) <= charts.POINTS_MAX + 1

    def test_an_image_holds_the_picture(self) -> None:
        """Markdown with a data: URL, which decodes to the same SVG."""
        svg = charts.bar_chart("t", [("x", 1.0, "1")])
        found = re.fullmatch(
            r"!\[alt\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", charts.as_markdown_image(svg, "alt")
        )
        assert found is not None and base64.b64decode(found[1]).decode() == svg


def test_a_name_of_two_blocks_needs_its_type(world: World) -> None:
    """A bare name finds its block among all types of the role; for two the message gives the full ones."""
    assert lookup.store_block(world.store_name).directory == str(world.folder / "store")
    keys_ = blocks.stores.AwsCredentials(aws_access_key_id="id", aws_secret_access_key=SecretStr("hush"))
    blocks.S3Store(bucket="b", credentials=keys_).save(world.store_name)
    with pytest.raises(UsageError, match=f"poorwill-s3-store/{world.store_name}") as several:
        lookup.store_block(world.store_name)
    assert "hush" not in str(several.value)
    assert lookup.store_block(f"poorwill-s3-store/{world.store_name}").bucket == "b"
    for name in ("", "Upper", "a/b/c", "poorwill-machine/x", "x" * 101):
        with pytest.raises(UsageError):
            lookup.store_block(name)
    assert lookup.block_name_of("Trainer_1.b") == "trainer-1-b" and lookup.block_name_of("_") == "machine"


def test_a_run_without_a_session_is_a_lost_engine() -> None:
    """In a process that has no engine for the run a task raises an error that makes the flow begin again."""
    for ask in (sessions.get, sessions.snapshot, sessions.restore):
        with pytest.raises(EngineLost, match="open the machine again"):
            ask("no-such-run")
    sessions.stop("no-such-run")
    sessions.close("no-such-run")


def test_a_session_is_opened_again_when_its_engine_is_gone(world: World) -> None:
    """reach keeps a live engine, and starts another one after the first is lost."""
    world.machine(one_file)
    first = sessions.reach("run", world.name, world.store_name, "/workspace")
    try:
        assert sessions.reach("run", world.name, world.store_name, "/workspace") is first
        sessions.stop("run")
        with pytest.raises(EngineLost):
            sessions.get("run")
        second = sessions.reach("run", world.name, world.store_name, "/workspace")
        assert second is not first and second.session.alive
    finally:
        sessions.close("run")
    shutil.rmtree(world.provider.root)
    with pytest.raises(PoorwillError, match="correct its block"):
        sessions.reach("run", world.name, world.store_name, "/workspace")
