"""python -m bench: every row of the targets, or those that are named."""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from bench import machine, retention
from bench.arena import Arena, say
from bench.network import rented
from bench.peers import experiments
from bench.peers import tools as peers
from bench.report import Report
from bench.targets import findings

GENERATION_ROWS = ("warm", "inference", "growth", "durable", "restarts")
ROWS = ("snapshot", "restore", "ratio", "memory", "unchanged", "changed", "many", "ssh", "link", "cost", "retention",
        *GENERATION_ROWS, "gateway")  # fmt: skip
ROUND_TRIP_ROWS = {"snapshot", "restore", "ratio"}
# The most that each row has in the scratch folder at one time; generation, in its processes.
NEED_BYTES = {"memory": 15e9, "many": 4.5e9, "unchanged": 6.5e9, "retention": 1e9, "gateway": 2e9,
              **dict.fromkeys(GENERATION_ROWS, 3e9)}  # fmt: skip
NEED_BYTES_OTHER = 7e9
NEED_INODES = 700_000
SMALL_SHARE = 0.06
RUNS_MAX = 99
RESULTS = Path(__file__).parent / "results"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--runs", type=int, help="runs of each contestant (default 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="workspaces of a twentieth, few jobs; nothing is written")
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW", help="one of " + ", ".join(ROWS))
    parser.add_argument("--scratch", type=Path, default=Path("/dev/shm"), help="a tmpfs (default /dev/shm)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the tables go (default bench/results)")
    given = parser.parse_args()
    given.runs = given.runs or (1 if given.quick else 3)
    if not 1 <= given.runs <= RUNS_MAX:
        parser.error(f"--runs is 1 to {RUNS_MAX}")
    if not given.scratch.is_dir():
        parser.error(f"--scratch {given.scratch} is not a folder; name one on a tmpfs")
    return given


def _check_room(scratch: Path, rows: set[str], share: float) -> None:
    """Stop before anything is made if it would not fit. A tmpfs takes memory, whatever it says is free."""
    need = max(NEED_BYTES.get(row, NEED_BYTES_OTHER) for row in rows) * share
    seen = os.statvfs(scratch)
    free = seen.f_bavail * seen.f_frsize
    if machine.filesystem(scratch) == "tmpfs":
        free = min(free, machine.memory_bytes("MemAvailable"))
    else:
        say(f"note: {scratch} is not a tmpfs; a disk swings these results up to tenfold")
    if free < need:
        sys.exit(
            f"bench: {scratch} has room for {free / 1e9:.1f} GB, {need / 1e9:.1f} GB are needed; "
            "see --only and --scratch"
        )
    if "many" in rows and seen.f_files > 0 and seen.f_favail < NEED_INODES * share:
        sys.exit(f"bench: {scratch} has {seen.f_favail} free inodes, {NEED_INODES * share:.0f} are needed")


def _measure(arena: Arena, rows: set[str], *, quick: bool) -> tuple[list[dict[str, Any]], list[rented.Linked]]:
    """Run what `rows` need; in an order in which each workspace is made once."""
    said: list[dict[str, Any]] = []
    linked: list[rented.Linked] = []
    everyone = tuple(peers.ALL)
    if rows & ROUND_TRIP_ROWS:
        experiments.there_and_back(arena, "weights", everyone)
    if "unchanged" in rows:
        experiments.unchanged(arena, ("poorwill", "restic"))
    if "memory" in rows:
        experiments.there_and_back(arena, "weights", ("poorwill",), memory=True)
    if "changed" in rows:
        said = experiments.changed(arena)
    if "ssh" in rows:
        rented.over_ssh(arena)
    if rows & {"link", "cost"}:
        linked = rented.link_limited(arena)
    if "many" in rows:
        experiments.there_and_back(arena, "many", ("poorwill", "tar"))
    if "memory" in rows:
        experiments.there_and_back(arena, "many", ("poorwill",), memory=True)
        experiments.memory_without_source(arena, "weights-8gb")
    if "retention" in rows:
        retention.measure(arena, quick=quick)
    if rows & set(GENERATION_ROWS):
        from bench.generation import rows as generation  # not above: it imports Prefect, which takes seconds

        generation.measure(arena, rows, generation.QUICK if quick else generation.Counts())
    if "gateway" in rows:
        from bench.gateway import rows as gateway  # the same

        gateway.measure(arena, gateway.QUICK if quick else gateway.Counts())
    return said, linked


def _kind(runs: int, quick: bool) -> str:
    figures = "one run of each" if runs == 1 else f"medians of {runs} runs (smallest - largest)"
    return f"{figures}; WORKSPACES OF A TWENTIETH AND FEW JOBS, which say nothing of the targets" if quick else figures


def _generation_versions() -> dict[str, str | None]:
    return {name: metadata.version(name) for name in ("prefect", "torch", "diffusers")}


def _on_terminate(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    given = _arguments()
    rows = set(given.only or ROWS)
    _check_room(given.scratch, rows, SMALL_SHARE if given.quick else 1.0)
    report = Report(
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        kind=_kind(given.runs, given.quick),
        runs=given.runs,
        machine=machine.describe(given.scratch),
        versions=peers.versions() | (_generation_versions() if rows & {*GENERATION_ROWS, "gateway"} else {}),
    )
    signal.signal(signal.SIGTERM, _on_terminate)
    scratch = Path(tempfile.mkdtemp(prefix="poorwill-bench-", dir=given.scratch))
    try:
        changed, linked = _measure(Arena(scratch, report, small=given.quick), rows, quick=given.quick)
    except KeyboardInterrupt:
        say("bench: interrupted")
        return 130
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report.findings = findings(report, changed, linked, rows, ROWS)
    print(report.as_markdown())
    if given.quick or given.only:
        say("not written to the results: only a full run is")
    else:
        for path in report.write(given.results, f"{report.date}-{machine.slug()}"):
            say(f"written: {path.name}")
    return 1 if any("poorwill" in name for name in report.failures) else 0


if __name__ == "__main__":
    sys.exit(main())
