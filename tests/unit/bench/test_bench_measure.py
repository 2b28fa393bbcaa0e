"""The benchmark's own instruments: what they report is what was spent, and what they make is reproducible."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import pytest

from bench import targets
from bench.__main__ import ROWS
from bench.arena import Arena, Made
from bench.measure import Command, CommandFailed, Spread, alternate, run
from bench.peers import experiments
from bench.peers.tools import Poorwill, Site
from bench.report import Report, Timing
from bench.tree import tree_bytes, tree_digest
from bench.workspace import make_many, make_weights

ALLOCATED = 96 << 20

# The child touches its memory, then waits until the parent was told; the parent holds as much of its own.
TWO_PROCESSES = f"""
import subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", "held = b'x' * {ALLOCATED}; print('ready', flush=True); input()"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
held = b"y" * {ALLOCATED}
import time; time.sleep(0.5)
child.communicate(b"end\\n")
"""


TEXT = bytes(range(256)) * 4_000


def python(code: str) -> Command:
    return Command([sys.executable, "-c", code])


def test_the_memory_of_a_parent_and_its_child_is_added_up() -> None:
    """Two processes that hold 96 MiB each at the same time are 192 MiB, and not much more."""
    usage = run(python(TWO_PROCESSES), memory=True)
    assert usage.memory_peak_bytes is not None
    assert 2 * ALLOCATED <= usage.memory_peak_bytes < 2 * ALLOCATED + (64 << 20)


def test_memory_is_not_sampled_unless_asked_for() -> None:
    """A timed run carries no sampler."""
    assert run(python("pass")).memory_peak_bytes is None


def test_cpu_time_of_a_child_counts() -> None:
    """The CPU seconds of a grandchild that spins for half a second are in the sum, and idling is not."""
    spin = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    usage = run(python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"))
    assert usage.cpu_s >= 0.5
    assert usage.wall_s >= 0.5


def test_a_failing_command_says_its_last_words() -> None:
    """The error names the program, its exit code and the last line it wrote."""
    with pytest.raises(CommandFailed, match=r"exited with 3: the reason"):
        run(python("import sys; print('first\\nthe reason', file=sys.stderr); sys.exit(3)"))


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """After the time limit neither the command nor its child lives on: a pipe that both hold open ends."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(CommandFailed, match="was stopped after 2 s"):
            run(Command(["sh", "-c", f"exec 5>{pipe}; echo open >&5; sleep 600; true"]), timeout_s=2)
        assert os.read(reading, 100) == b"open\n"
        ready, _, _ = select.select([reading], [], [], 30)
        assert ready
        assert os.read(reading, 1) == b""
    finally:
        os.close(reading)


def test_contestants_take_turns_and_a_failed_one_drops_out() -> None:
    """A B A B, and one that fails once is not called again."""
    calls: list[str] = []

    def b(number: int) -> None:
        calls.append(f"b{number}")
        raise CommandFailed("no")

    failed = alternate({"a": lambda number: calls.append(f"a{number}"), "b": b}, 3)
    assert calls == ["a0", "b0", "a1", "a2"]
    assert failed == {"b": "no"}


def test_workspaces_are_the_same_every_time(tmp_path: Path) -> None:
    """Two workspaces of one kind hold the same bytes; their sizes are those that were asked for."""
    for name in ("one", "two"):
        make_weights(tmp_path / name / "weights", scale=0.002, text=TEXT)
        make_many(tmp_path / name / "many", files=60, folders=6, text=TEXT)
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")
    assert tree_bytes(tmp_path / "one" / "weights") == pytest.approx(4e6, rel=0.1)
    assert tree_bytes(tmp_path / "one" / "many") == 60 * 500
    assert len(list((tmp_path / "one" / "many").iterdir())) == 6


@pytest.mark.parametrize("change", ["content", "mode", "name", "target"])
def test_the_digest_of_a_tree_sees_every_change(tmp_path: Path, change: str) -> None:
    """One byte, one permission bit, one name or one link's target makes another digest."""
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    before = tree_digest(tmp_path)
    if change == "content":
        (tmp_path / "file").write_bytes(b"abd")
    elif change == "mode":
        (tmp_path / "file").chmod(0o600)
    elif change == "name":
        (tmp_path / "file").rename(tmp_path / "file2")
    else:
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to("other")
    assert tree_digest(tmp_path) != before


def test_a_contestant_that_gives_back_other_bytes_has_failed(tmp_path: Path) -> None:
    """A restore is compared with its source before its time counts."""

    class Liar(Poorwill):
        def unpack(self, target: Path, site: Site) -> Command:
            return python(f"import os; os.makedirs({str(target)!r})")

    arena = Arena(tmp_path, empty_report(), small=True)
    make_many(tmp_path / "source", files=10, folders=2, text=TEXT)
    made = Made("many", tmp_path / "source", 5_000, tree_digest(tmp_path / "source"))
    with pytest.raises(CommandFailed, match="gave back something else"):
        arena.unpacked(Liar(), arena.site("liar"), made, compare=True, memory=True)
    assert not (tmp_path / "restored").exists()


def test_a_snapshot_without_its_last_json_line_has_failed() -> None:
    """Only a line of event "done" with a snapshot id counts as a snapshot."""
    poorwill = Poorwill()
    assert poorwill.packed('{"event": "x"}\n{"event": "done", "snapshot_id": "s"}\n')["snapshot_id"] == "s"
    for said in ("", "not json", '{"event": "progress"}', '{"event": "done"}'):
        with pytest.raises(CommandFailed, match="event 'done'"):
            poorwill.packed(said)


def empty_report() -> Report:
    return Report("2026-01-01", "made up", 1, {}, {"poorwill": "1", "restic": "1", "tar": "1"})


def timing(contestant: str, wall_s: float, step: str = "snapshot", memory: float | None = None) -> Timing:
    return Timing(
        workspace="weights",
        step=step,
        contestant=contestant,
        raw_bytes=1_500,
        wall_s=Spread.of([wall_s]),
        cpu_s=Spread.of([wall_s]),
        stored_bytes=1_000,
        memory_peak_bytes=None if memory is None else Spread.of([memory]),
    )


@pytest.mark.parametrize(("wall_s", "met"), [(2.0, True), (2.6, False)])
def test_verdicts_follow_the_figures(wall_s: float, met: bool) -> None:
    """A quarter of restic's time is met at 2.0 of 10 s and missed at 2.6; what has no figure has no verdict."""
    report = empty_report()
    report.timings = [timing("poorwill", wall_s), timing("restic", 10.0)]
    found = {f.what: f for f in targets.findings(report, [], [], {"snapshot", "ratio"}, ROWS)}
    assert found["snapshot: wall beside restic"].met is met
    assert found["snapshot: wall beside borg"].met is None
    assert found["snapshot: wall beside borg"].value == "borg: not installed"
    assert found["raw / stored, all objects"].met is True


def test_larger_workspaces_are_held_to_the_memory_of_the_smaller() -> None:
    """At 300 MB for 2 GB, 8 GB may take 330 MB: 340 MB is a miss although it is below 700 MB."""
    report = empty_report()
    small = timing("poorwill", 1.0, "snapshot (memory)", 300e6)
    large = Timing("weights-8gb", *(getattr(small, n) for n in ("step", "contestant", "raw_bytes")),
                   small.wall_s, small.cpu_s, None, Spread.of([340e6]))  # fmt: skip
    report.timings = [small, large]
    found = {f.what: f.met for f in targets.findings(report, [], [], {"memory"}, ROWS)}
    assert found["snapshot: peak memory, 2 GB"] is True
    assert found["snapshot: peak memory, 8 GB"] is False


def test_a_changed_region_is_put_back(tmp_path: Path) -> None:
    """Each changed run starts from the first snapshot's bytes."""
    file = tmp_path / "file"
    file.write_bytes(os.urandom(10_000))
    before = file.read_bytes()
    with experiments.overwritten(file, 3_000, 1_000, seed=1):
        inside = file.read_bytes()
    assert file.read_bytes() == before
    assert inside[:3_000] == before[:3_000]
    assert inside[3_000:4_000] != before[3_000:4_000]
    assert inside[4_000:] == before[4_000:]
