"""What a snapshot leaves behind in Prefect's UI: a table of its parts, and pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
from prefect.logging import get_run_logger

from blocks.lookup import store_block
from poorwill.control.records import catalog, manifests
from poorwill.errors import one_line
from poorwill.snapshot.metadata import Coding, Metadata
from poorwill.snapshot.sizes import human
from poorwill.snapshot.tables import Kind, Manifest
from tasks.reports import charts
from tasks.reports.artifacts import (
    best_effort,
    bounded,
    markdown_table,
    publish_facts,
    publish_markdown,
    publish_table,
    stages_table,
)
from tasks.sessions import Sample

KINDS_MAX = 8
PART_ROWS_MAX = 64
OUTSIDE = "software installed elsewhere, other folders, memory, running programs and their connections"


def publish_snapshot(
    store: str,
    snapshot_id: str,
    packed: Sequence[dict[str, Any]],
    samples: Sequence[Sample],
    timings_ms: dict[str, int],
    cost: str = "",
    packs_in_full: str | None = None,
) -> None:
    """The report of a snapshot, as artifacts of the current run.

    cost: a sentence on what is saved. packs_in_full: why nothing was borrowed from an earlier snapshot.
    """
    with best_effort(f"the report of {snapshot_id}"):
        with closing(store_block(store).open()) as opened:
            metadata = catalog.find(opened, snapshot_id)
            manifest = manifests.read(opened, metadata)
        rows = part_rows(manifest, metadata, packed)
        publish_table("parts", rows, f"Parts of snapshot {snapshot_id}")
        remarks = "\n\n".join(filter(None, (cost, one_line(packs_in_full or ""))))
        text = snapshot_markdown(metadata, rows, kinds_of_files(manifest), samples, timings_ms, remarks)
        publish_markdown("snapshot", text, f"Snapshot {snapshot_id}")
        named = {name: getattr(metadata, name) for name in ("snapshot_id", "machine", "parent", "left_out_count")}
        publish_facts({**named, "packs_in_full": packs_in_full, **metadata.totals.document()})


def publish_not_kept(metadata: Metadata) -> None:
    """What a wake will not bring back, as an artifact of the current run and in its log. To be called before a machine
    is destroyed."""
    said = metadata.surroundings.not_kept() if metadata.surroundings is not None else []
    for line in said:
        get_run_logger().warning("snapshot %s: %s", metadata.snapshot_id, line)
    rows = [{"not kept": f"what lies outside of {metadata.workspace}: {OUTSIDE}"}, *({"not kept": s} for s in said)]
    publish_markdown("not-kept", bounded([markdown_table(rows)]), f"What snapshot {metadata.snapshot_id} does not keep")


def part_rows(manifest: Manifest, metadata: Metadata, packed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each part this snapshot sent: raw and stored MB, ratio, seconds and GB/s of this run."""
    chunks = manifest.chunks
    raw = np.bincount(chunks.part, weights=chunks.raw, minlength=len(manifest.parts))
    stored = np.bincount(chunks.part, weights=chunks.stored, minlength=len(manifest.parts))
    took = {int(done["number"]): int(done["milliseconds"]) / 1000 for done in packed}
    rows = []
    for row, part in enumerate(metadata.parts[:PART_ROWS_MAX]):
        if part.borrowed:
            continue
        number = int(manifest.parts.number[row])
        seconds = took.get(number)
        rows.append(
            {
                "part": f"{number:02d}",
                "raw MB": round(raw[row] / 1e6, 2),
                "stored MB": round(stored[row] / 1e6, 2),
                "ratio": round(raw[row] / stored[row], 3) if stored[row] else None,
                "seconds": round(seconds, 2) if seconds is not None else "kept",
                "GB/s": round(raw[row] / 1e9 / seconds, 3) if seconds else None,
            }
        )
    return rows


def kinds_of_files(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """(raw, stored) bytes by file name extension, largest first; the rest summed as "other"."""
    entries, segments, chunks = manifest.entries, manifest.segments, manifest.chunks
    share = chunks.stored / np.maximum(chunks.raw, 1)
    owner = manifest.segment_rows()
    raw = np.bincount(owner, weights=segments.length, minlength=len(entries))
    stored = np.bincount(owner, weights=segments.length * share[segments.chunk], minlength=len(entries))
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in np.flatnonzero((entries.kind == Kind.FILE) & (raw > 0)).tolist():
        sums[extension(entries.name[row])][0] += raw[row]
        sums[extension(entries.name[row])][1] += stored[row]
    ordered = sorted(sums.items(), key=lambda item: -item[1][0])
    kinds = {name: (int(a), int(b)) for name, (a, b) in ordered[: KINDS_MAX - 1]}
    rest = ordered[KINDS_MAX - 1 :]
    if rest:
        kinds["other"] = (int(sum(a for _, (a, _) in rest)), int(sum(b for _, (_, b) in rest)))
    return kinds


def extension(name: bytes) -> str:
    """The kind of a file by its name, printable and short."""
    stem, dot, last = name.rpartition(b".")
    text = last.decode("ascii", "replace").lower() if dot and stem else ""
    return f".{text}" if text.isalnum() and text.isascii() and len(text) <= 12 else "no extension"


def snapshot_markdown(
    metadata: Metadata,
    rows: Sequence[dict[str, Any]],
    kinds: dict[str, tuple[int, int]],
    samples: Sequence[Sample],
    timings_ms: dict[str, int],
    remarks: str = "",
) -> str:
    """The whole report of a snapshot; below MARKDOWN_BYTES_MAX."""
    totals = metadata.totals
    borrowed = sum(part.borrowed for part in metadata.parts)
    lines = [
        f"# Snapshot {metadata.snapshot_id} of {metadata.machine}",
        "",
        f"{totals.files:,} files, {human(totals.data_bytes)} of data"
        + (f" ({human(totals.raw_bytes)} with holes)" if totals.raw_bytes != totals.data_bytes else "")
        + f"; stored {human(totals.stored_bytes)}, "
        f"ratio {_ratio(totals.data_bytes, totals.stored_bytes)}; sent {human(totals.sent_bytes)} "
        f"in {totals.parts} parts" + (f", and uses {borrowed} parts of earlier snapshots" if borrowed else ""),
        "",
        *([remarks, ""] if remarks else []),
        *_coded_by(metadata.coding),
        stages_table(timings_ms),
        "",
        charts.throughput(samples, {"read": "read_bytes", "sent": "sent_bytes"}),
        "",
        _ratios("Ratio by kind of file", kinds),
        "",
        _ratios("Ratio by codec", {k: (v.raw_bytes, v.stored_bytes) for k, v in metadata.codecs.items()}),
        "",
        markdown_table(rows) if rows else "No part was sent: everything was known.",
    ]
    return bounded(lines)


def _coded_by(coding: Coding | None) -> list[str]:
    if coding is None:
        return []
    text = f"Coded by the {coding.by.upper()} ({coding.codec}): {coding.reason}."
    if coding.fell_back:
        text += f" {coding.fell_back} chunks fell back to the CPU: {coding.warning or ''}."
    return [one_line(text), ""]


def _ratios(title: str, sums: dict[str, tuple[int, int]]) -> str:
    bars = [
        (name, raw / stored if stored else 0.0, f"{_ratio(raw, stored)} of {human(raw)}")
        for name, (raw, stored) in sums.items()
    ]
    return charts.as_markdown_image(charts.bar_chart(title, bars), title)


def _ratio(raw: int, stored: int) -> str:
    return f"{raw / stored:.3f}" if stored else "-"
