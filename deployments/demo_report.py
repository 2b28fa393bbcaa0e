"""What the demo measured: bytes, ratio, parts, and the seconds of each stage as the Prefect server recorded them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from rich.console import Console, Group
from rich.table import Table

from poorwill.cli.output import human

STAGES: Mapping[str, tuple[str, ...]] = {
    "scan": ("scan_workspace",),
    "pack": ("pack_part",),
    "settle": ("settle",),
    "metadata": ("write_metadata",),
    "verify": ("verify_snapshot",),
    "destroy": ("destroy_instance",),
    "provision": ("provision",),
    "restore": ("open_restore", "restore_part"),
    "finish": ("finish_restore",),
}
"""The stages, and the names of the task runs that make each."""
TASK_RUNS_MAX = 200
RECORDED_TIMEOUT_S = 20.0
"""The server records task runs from events, a moment after they happened."""
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Span:
    """A task run as the server recorded it."""

    name: str
    began: datetime
    ended: datetime


def recorded(flow_run_id: UUID, timeout_s: float = RECORDED_TIMEOUT_S) -> list[Span]:
    """The task runs of a flow run that has ended, once the server has recorded all of their ends."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    ends = time.monotonic() + timeout_s
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_task_runs(flow_run_filter=wanted, limit=TASK_RUNS_MAX)
            waiting = [run for run in runs if run.end_time is None]
            if (runs and not waiting) or time.monotonic() > ends:
                return [
                    Span(run.name, run.start_time, run.end_time) for run in runs if run.start_time and run.end_time
                ]
            time.sleep(_POLL_S)


def seconds_by_stage(spans: Iterable[Span]) -> dict[str, float]:
    """From the first start to the last end of each stage's task runs; stages that did not run are left out."""
    found: dict[str, list[Span]] = {}
    for span in spans:
        for stage, names in STAGES.items():
            if span.name.startswith(names):
                found.setdefault(stage, []).append(span)
    return {
        stage: (max(s.ended for s in found[stage]) - min(s.began for s in found[stage])).total_seconds()
        for stage in STAGES
        if stage in found
    }


def bytes_by_stage(metadata: Mapping[str, Any], verification: Mapping[str, Any]) -> dict[str, int]:
    """What a stage's speed is about: file bytes, but stored bytes where nothing is decoded."""
    totals = metadata["totals"]
    return {
        "pack": int(totals["sent_raw_bytes"]),
        "verify": int(verification["bytes_read"]),
        "restore": int(totals["data_bytes"]),
    }


def print_report(
    console: Console, metadata: Mapping[str, Any], verification: Mapping[str, Any], spans: Sequence[Span]
) -> None:
    """The table of the snapshot and the table of the stages."""
    sizes = bytes_by_stage(metadata, verification)
    stages = Table("stage", title="Stages", title_justify="left", show_edge=False, pad_edge=False)
    for heading in ("bytes", "seconds", "GB/s"):
        stages.add_column(heading, justify="right")
    for stage, seconds in seconds_by_stage(spans).items():
        size = sizes.get(stage)
        speed = f"{size / seconds / 1e9:.2f}" if size and seconds else ""
        stages.add_row(stage, human(size) if size else "", f"{seconds:.2f}", speed)
    console.print()
    console.print(Group(_sizes(metadata), "", stages), highlight=False)
    console.print()


def _sizes(metadata: Mapping[str, Any]) -> Table:
    totals = metadata["totals"]
    data, stored = int(totals["data_bytes"]), int(totals["stored_bytes"])
    table = Table(title=f"Snapshot {metadata['snapshot_id']}", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("entries", str(totals["entries"]))
    table.add_row("bytes raw", f"{data:,}")
    table.add_row("bytes stored", f"{stored:,}")
    table.add_row("ratio", f"{data / stored:.3f}" if stored else "")
    table.add_row("parts", str(totals["parts"]))
    for codec, figures in metadata["codecs"].items():
        table.add_row(f"chunks by {codec}", f"{figures['chunks']}")
    return table
