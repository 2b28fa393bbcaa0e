"""What the demo prints at the end: bytes, ratio, parts, and the seconds of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.sizes import human

STAGES = ("scan", "pack", "settle", "metadata", "verify", "destroy", "provision", "restore", "finish")
"""In their order, by the names under which the flows time them."""


def print_report(console: Console, metadata: Metadata, slept: Mapping[str, Any], woke: Mapping[str, Any]) -> None:
    """The table of the snapshot and the table of the stages.

    metadata: the snapshot's, as the store has it. slept, woke: what the flows `hibernate` and `wake` returned.
    """
    console.print(Group("", _sizes(metadata), "", _stages(slept, woke), ""))


def _stages(slept: Mapping[str, Any], woke: Mapping[str, Any]) -> Table:
    """A stage that did not run is left out. Speeds count bytes of files, but stored bytes where nothing is decoded."""
    timings_ms = {**slept["timings_ms"], **woke["timings_ms"]}
    sizes = {
        "pack": slept["totals"]["sent_raw_bytes"],
        "verify": slept["verified"]["bytes_read"],
        "restore": slept["totals"]["data_bytes"],
    }
    table = Table("stage", title="Stages", title_justify="left", show_edge=False, pad_edge=False)
    for heading in ("bytes", "seconds", "GB/s"):
        table.add_column(heading, justify="right")
    for stage in (stage for stage in STAGES if stage in timings_ms):
        size, seconds = sizes.get(stage), timings_ms[stage] / 1000
        speed = f"{size / seconds / 1e9:.2f}" if size and seconds else ""
        table.add_row(stage, human(size) if size else "", f"{seconds:.2f}", speed)
    return table


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
