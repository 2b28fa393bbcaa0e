"""What the demo prints at the end: bytes, ratio, parts, and the seconds of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from poorwill.cli.output import human
from poorwill.snapshot.metadata import Metadata

STAGES = ("scan", "pack", "settle", "metadata", "verify", "destroy", "provision", "restore", "finish")
"""In their order, by the names under which the flows time them."""


def seconds_by_stage(slept: Mapping[str, Any], woke: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of each stage, from the results of the two flows; a stage that did not run is left out."""
    timings = {**slept["timings_ms"], **woke["timings_ms"]}
    return {stage: timings[stage] / 1000 for stage in STAGES if stage in timings}


def bytes_by_stage(slept: Mapping[str, Any]) -> dict[str, int]:
    """What a stage's speed is about: bytes of files, but stored bytes where nothing is decoded."""
    return {
        "pack": int(slept["totals"]["sent_raw_bytes"]),
        "verify": int(slept["verified"]["bytes_read"]),
        "restore": int(slept["totals"]["data_bytes"]),
    }


def print_report(console: Console, metadata: Metadata, slept: Mapping[str, Any], woke: Mapping[str, Any]) -> None:
    """The table of the snapshot and the table of the stages.

    metadata: the snapshot's, as the store has it. slept, woke: what the flows `hibernate` and `wake` returned.
    """
    sizes = bytes_by_stage(slept)
    stages = Table("stage", title="Stages", title_justify="left", show_edge=False, pad_edge=False)
    for heading in ("bytes", "seconds", "GB/s"):
        stages.add_column(heading, justify="right")
    for stage, seconds in seconds_by_stage(slept, woke).items():
        size = sizes.get(stage)
        speed = f"{size / seconds / 1e9:.2f}" if size and seconds else ""
        stages.add_row(stage, human(size) if size else "", f"{seconds:.2f}", speed)
    console.print()
    console.print(Group(_sizes(metadata), "", stages))
    console.print()


def _sizes(metadata: Metadata) -> Table:
    totals = metadata.totals
    data, stored = totals.data_bytes, totals.stored_bytes
    title = f"Snapshot {metadata.snapshot_id}"
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False, show_header=False)
    table.add_column(min_width=len(title) // 2)
    table.add_column(justify="right")
    table.add_row("entries", str(totals.entries))
    table.add_row("bytes raw", f"{data:,}")
    table.add_row("bytes stored", f"{stored:,}")
    table.add_row("ratio", f"{data / stored:.3f}" if stored else "")
    table.add_row("parts", str(totals.parts))
    for codec, figures in metadata.codecs.items():
        table.add_row(f"chunks by {codec}", f"{figures.chunks}")
    return table
