"""What Poorwill must reach, and whether a report says that it does."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from bench import retention
from bench.gateway import targets as gateway_targets
from bench.generation import targets as generation_targets
from bench.network.rented import HERE, LINK_BYTES_PER_S, OVER_SSH, Linked
from bench.page import Finding
from bench.report import Report, Timing

CHUNK_BYTES = 8 << 20
RATIO_MIN = 1.42
MEMORY_BYTES_MAX = 700e6
MEMORY_GROWTH_MAX = 1.1
SSH_TIMES_MAX = 1.15
LINK_TIMES_MAX = 1.15

# step, row, and the most that Poorwill may take, as a share of each peer's time
WALL_TARGETS = (
    ("snapshot", "snapshot", (("restic", 1 / 4), ("tar | zstd -1 -T2", 1 / 2), ("borg", 1 / 2))),
    ("restore", "restore", (("restic", 1 / 4), ("tar | zstd -1 -T2", 1 / 2))),
    ("second snapshot, unchanged", "unchanged", (("restic", 1 / 2),)),
)
RESTORE_AIM = 1.25  # times cp -a: an aim, not a limit


def _walls(report: Report) -> Iterator[Finding]:
    for step, row, peers in WALL_TARGETS:
        for peer, share in peers:
            yield _wall(report, row, step, peer, share, f"at most 1/{1 / share:.0f}")
    yield _wall(report, "restore", "restore", "cp -a", RESTORE_AIM, f"aim: at most {RESTORE_AIM} times")


def _wall(report: Report, row: str, step: str, peer: str, share: float, target: str) -> Finding:
    ours, theirs = report.timing("weights", step, "poorwill"), report.timing("weights", step, peer)
    what = f"{step}: wall beside {peer}"
    if ours is None or theirs is None:
        return Finding(row, what, target, report.why_not("poorwill", peer), None)
    times = ours.wall_s.median / theirs.wall_s.median
    value = f"{times:.2f} ({ours.wall_s.median:.2f} s / {theirs.wall_s.median:.2f} s)"
    return Finding(row, what, target, value, times <= share)


def _ratio(report: Report) -> Finding:
    ours = report.timing("weights", "snapshot", "poorwill")
    target = f"at least {RATIO_MIN}"
    if ours is None or not ours.stored_bytes:
        return Finding("ratio", "raw / stored, all objects", target, report.why_not("poorwill"), None)
    ratio = ours.raw_bytes / ours.stored_bytes
    return Finding("ratio", "raw / stored, all objects", target, f"{ratio:.3f}", ratio >= RATIO_MIN)


def _peak(timing: Timing | None) -> float | None:
    return timing.memory_peak_bytes.median if timing and timing.memory_peak_bytes else None


def _memory(report: Report) -> Iterator[Finding]:
    for step in ("snapshot", "restore"):
        base = _peak(report.timing("weights", f"{step} (memory)", "poorwill"))
        limit = MEMORY_BYTES_MAX
        for workspace, where in (("weights", "2 GB"), ("weights-8gb", "8 GB"), ("many", "300,000 files")):
            peak = base if workspace == "weights" else _peak(report.timing(workspace, f"{step} (memory)", "poorwill"))
            what = f"{step}: peak memory, {where}"
            target = f"at most {limit / 1e6:.0f} MB"
            if peak is None:
                yield Finding("memory", what, target, report.why_not("poorwill"), None)
                continue
            yield Finding("memory", what, target, f"{peak / 1e6:.0f} MB", peak <= limit)
            if workspace == "weights":
                limit = min(MEMORY_BYTES_MAX, peak) * MEMORY_GROWTH_MAX


def _changed(said: list[dict[str, Any]], report: Report) -> Finding:
    what = "second snapshot, 1% of the bf16 file changed: raw bytes sent"
    sent = [int(done["sent_raw_bytes"]) for done in said if "sent_raw_bytes" in done]
    stored = [int(done["sent_bytes"]) for done in said if "sent_bytes" in done]
    if not sent or not stored:
        why = "the totals hold no sent_raw_bytes and sent_bytes" if said else report.why_not("poorwill")
        return Finding("changed", what, "at most that 1% and two chunks", why, None)
    limit = int(said[0]["changed_bytes"]) + 2 * CHUNK_BYTES
    value = f"{max(sent) / 1e6:.1f} MB ({max(stored) / 1e6:.1f} MB stored)"
    return Finding("changed", what, f"at most {limit / 1e6:.1f} MB", value, max(sent) <= limit)


def _many(report: Report) -> Finding:
    what, target = "300,000 files, there and back: wall beside tar", "at most 3 times"
    walls = []
    for name in ("poorwill", "tar"):
        steps = [report.timing("many", step, name) for step in ("snapshot", "restore")]
        known = [step.wall_s.median for step in steps if step is not None]
        if len(known) != len(steps):
            return Finding("many", what, target, report.why_not("poorwill", "tar"), None)
        walls.append(sum(known))
    times = walls[0] / walls[1]
    return Finding("many", what, target, f"{times:.2f} ({walls[0]:.2f} s / {walls[1]:.2f} s)", times <= 3)


def _over_ssh(report: Report) -> Iterator[Finding]:
    for step in ("snapshot", "restore"):
        ours, theirs = report.timing("weights", step, OVER_SSH), report.timing("weights", step, HERE)
        what, target = f"{step} over SSH: wall beside the same without, S3 store", f"at most {SSH_TIMES_MAX} times"
        if ours is None or theirs is None:
            yield Finding("ssh", what, target, report.why_not("poorwill"), None)
            continue
        times = ours.wall_s.median / theirs.wall_s.median
        value = f"{times:.2f} ({ours.wall_s.median:.2f} s / {theirs.wall_s.median:.2f} s)"
        yield Finding("ssh", what, target, value, times <= SSH_TIMES_MAX)


def _linked(runs: list[Linked], report: Report) -> Iterator[Finding]:
    for stage in ("pack", "restore"):
        what = f"{stage}, the store behind {LINK_BYTES_PER_S / 1e6:.0f} MB/s: times what the link needs"
        target = f"at most {LINK_TIMES_MAX}"
        if not runs:
            yield Finding("link", what, target, report.why_not("poorwill"), None)
            continue
        times = [
            (run.pack_s if stage == "pack" else run.restore_s) * LINK_BYTES_PER_S / run.stored_bytes for run in runs
        ]
        value = f"{median(times):.3f} ({min(times):.3f} - {max(times):.3f}) for {runs[0].stored_bytes / 1e9:.2f} GB"
        yield Finding("link", what, target, value, median(times) <= LINK_TIMES_MAX)


def _cost(runs: list[Linked], report: Report) -> Iterator[Finding]:
    for step in ("snapshot", "restore"):
        what = f"{step}: requests to the store"
        if not runs:
            yield Finding("cost", what, "told", report.why_not("poorwill"), None)
            continue
        kinds = runs[-1].snapshot_requests if step == "snapshot" else runs[-1].restore_requests
        total, gigabytes = sum(kinds.values()), runs[-1].stored_bytes / 1e9
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))
        yield Finding("cost", what, "told", f"{total / gigabytes:.0f} for each stored GB ({told})", total > 0)


def findings(
    report: Report, changed: list[dict[str, Any]], linked: list[Linked], rows: set[str], order: tuple[str, ...]
) -> list[Finding]:
    """Every target of `rows`, in that order; `changed` and `linked` are what the runs of these rows said."""
    found = [*_walls(report), _ratio(report), *_memory(report), _changed(changed, report), _many(report)]
    found += [*_over_ssh(report), *_linked(linked, report), *_cost(linked, report)]
    found += retention.findings(report)
    found += gateway_targets.findings(report)
    found += generation_targets.findings(report)
    return sorted((f for f in found if f.row in rows), key=lambda f: order.index(f.row))
