"""The row `retention`: planning over a store that holds ten thousand snapshots."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from bench.arena import Arena, say
from bench.measure import Command, CommandFailed, Spread, run
from bench.page import Finding
from bench.report import Report, Timing
from deployments.servers.s3_server import S3Server
from poorwill.control.records.verified import CheckedPart, Verified, Verifier
from poorwill.errors import PoorwillError
from poorwill.snapshot import keys, limits
from poorwill.snapshot.metadata import THIS_TOOL, ManifestReference, Metadata, Totals, UsedPart

SNAPSHOTS, SNAPSHOTS_QUICK = 10_000, 500
MACHINES = 50
OWN_PARTS = 2
PART_BYTES, MANIFEST_BYTES = 1_000, 500
WALL_S_MAX, MEMORY_BYTES_MAX = 60.0, 500e6
WORKSPACE = "snapshots"
STEPS = {"a directory": "plan, a directory", "S3": "plan, S3"}
RULES = ("--keep-last", "3", "--keep-daily", "7", "--keep-weekly", "4", "--keep-monthly", "12")


@dataclass(frozen=True, slots=True)
class Lineage:
    """One machine's snapshots, a day apart: the first has 32 parts, and each other one borrows all of these."""

    machine: str
    count: int

    def snapshot_ids(self) -> list[str]:
        began = datetime(2025, 1, 1, tzinfo=timezone.utc)
        return [f"{began + timedelta(days=n):%Y%m%dT%H%M%SZ}-{n:08x}" for n in range(self.count)]

    def parts(self, snapshot_id: str, first: str) -> tuple[UsedPart, ...]:
        full = [(first, number) for number in range(limits.PARTS)]
        own = [(snapshot_id, number) for number in range(OWN_PARTS)] if snapshot_id != first else []
        return tuple(
            UsedPart(keys.part(self.machine, owner, number), PART_BYTES, owner != snapshot_id)
            for owner, number in full + own
        )


def objects(lineage: Lineage) -> Iterator[tuple[str, bytes]]:
    """Every object of these snapshots, as a store holds them; of parts and manifests only their sizes count."""
    names = lineage.snapshot_ids()
    for snapshot_id in names:
        metadata = _metadata(lineage, snapshot_id, lineage.parts(snapshot_id, names[0]))
        record = _record(metadata)
        yield metadata.manifest.key, bytes(MANIFEST_BYTES)
        yield from ((part.key, bytes(PART_BYTES)) for part in metadata.parts if not part.borrowed)
        yield metadata.key, metadata.seal()
        yield record.key, record.seal()


def make(root: Path, snapshots: int) -> int:
    """Fill a directory as a store would. Returns the bytes of its metadata."""
    metadata_bytes = 0
    for number in range(MACHINES):
        for key, data in objects(Lineage(f"machine-{number:02d}", snapshots // MACHINES)):
            path = root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            metadata_bytes += len(data) if key.startswith(keys.SNAPSHOTS) else 0
    return metadata_bytes


def measure(arena: Arena, *, quick: bool) -> None:
    """Plan over a directory and over an S3 server, for the time and then for the memory. What fails is reported."""
    arena.clear()
    count = SNAPSHOTS_QUICK if quick else SNAPSHOTS
    root = arena.scratch / "retention"
    say(f"retention: making {count} snapshots")
    try:
        with S3Server(root) as server:
            store = root / server.bucket
            metadata_bytes = make(store, count)
            for name, url, env in (("a directory", store.as_uri(), None), ("S3", server.url(), server.env())):
                try:
                    _plan(arena, Command(_argv(url), env=env), STEPS[name], metadata_bytes)
                except CommandFailed as error:
                    arena.failed(STEPS[name], {"poorwill": str(error)})
    except PoorwillError as error:
        arena.failed("retention", {"poorwill": str(error)})
    finally:
        shutil.rmtree(root, ignore_errors=True)


def findings(report: Report) -> Iterator[Finding]:
    """Each target, measured or not."""
    for name, step in STEPS.items():
        what = f"retention plans {SNAPSHOTS:,} snapshots in {name}"
        wall, memory = (report.timing(WORKSPACE, each, "poorwill") for each in (step, f"{step} (memory)"))
        if wall is None:
            yield Finding("retention", what, f"at most {WALL_S_MAX:.0f} s", report.why_not("poorwill"), None)
        else:
            value = f"{wall.wall_s.median:.1f} s"
            yield Finding("retention", what, f"at most {WALL_S_MAX:.0f} s", value, wall.wall_s.median <= WALL_S_MAX)
        target = f"at most {MEMORY_BYTES_MAX / 1e6:.0f} MB"
        if memory is None or memory.memory_peak_bytes is None:
            yield Finding("retention", f"{what}: peak memory", target, report.why_not("poorwill"), None)
        else:
            peak = memory.memory_peak_bytes.median
            yield Finding("retention", f"{what}: peak memory", target, f"{peak / 1e6:.0f} MB", peak <= MEMORY_BYTES_MAX)


def _argv(url: str) -> list[str]:
    program = str(Path(sys.executable).with_name("poorwill"))
    return [program, "retention", "--store", url, "--dry-run", "--json", *RULES]


def _plan(arena: Arena, command: Command, step: str, metadata_bytes: int) -> None:
    for memory in (False, True):
        usages = [run(command, memory=memory) for _ in range(1 if memory else arena.report.runs)]
        peaks = [usage.memory_peak_bytes for usage in usages if usage.memory_peak_bytes is not None]
        arena.report.timings.append(
            Timing(
                workspace=WORKSPACE,
                step=f"{step} (memory)" if memory else step,
                contestant="poorwill",
                raw_bytes=metadata_bytes,
                wall_s=Spread.of([usage.wall_s for usage in usages]),
                cpu_s=Spread.of([usage.cpu_s for usage in usages]),
                memory_peak_bytes=Spread.of(peaks) if peaks else None,
            )
        )
        say(f"{step}: {usages[-1].wall_s:.1f} s" + (f", {peaks[-1] / 1e6:.0f} MB" if peaks else ""))


def _metadata(lineage: Lineage, snapshot_id: str, parts: tuple[UsedPart, ...]) -> Metadata:
    return Metadata(
        machine=lineage.machine, snapshot_id=snapshot_id, created_at="2025-01-01T00:00:00Z",
        workspace="/workspace", instance=f"i-{lineage.machine}", parent=None, tool=THIS_TOOL, codec="auto",
        portable=False, needs=(),
        manifest=ManifestReference(keys.manifest(lineage.machine, snapshot_id), MANIFEST_BYTES, "0" * 64), parts=parts,
        totals=Totals(*[1_000_000] * 9), codecs={}, left_out=(), left_out_count=0,
        facts={"host": lineage.machine, "cores": 32, "memory_bytes": 1 << 37, "gpus": ["NVIDIA H100"] * 8},
        timings_ms={"scan": 1000, "pack": 100_000, "settle": 1000, "metadata": 1000},
    )  # fmt: skip


def _record(metadata: Metadata) -> Verified:
    return Verified(
        machine=metadata.machine, snapshot_id=metadata.snapshot_id, instance=metadata.instance,
        manifest=metadata.manifest, mode="stored", verified_at_s=1_735_689_600,
        by=Verifier(THIS_TOOL.name, THIS_TOOL.version, metadata.machine), bytes_read=1, chunks_sampled=8,
        parts=tuple(CheckedPart(part.key, part.bytes, not part.borrowed) for part in metadata.parts),
    )  # fmt: skip
