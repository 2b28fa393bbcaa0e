"""What a wake leaves behind in Prefect's UI: figures and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poorwill.snapshot.sizes import human
from tasks.reports import charts
from tasks.reports.artifacts import best_effort, bounded, publish_facts, publish_markdown, stages_table
from tasks.sessions import Sample


def publish_wake(result: dict[str, Any], samples: Sequence[Sample]) -> None:
    """The report of a wake, as artifacts of the current run."""
    with best_effort(f"the report of {result['snapshot_id']}"):
        publish_markdown("wake", wake_markdown(result, samples), f"Wake of {result['snapshot_id']}")
        publish_facts({name: value for name, value in result.items() if not isinstance(value, dict)})


def wake_markdown(result: dict[str, Any], samples: Sequence[Sample]) -> str:
    """The whole report of a wake; below MARKDOWN_BYTES_MAX."""
    plural = {"directory": "directories"}
    restored = ", ".join(
        f"{count:,} {kind if count == 1 else plural.get(kind, kind + 's')}"
        for kind, count in result["restored"].items()
        if count
    )
    sentence = (
        f"Snapshot {result['snapshot_id']}: {human(result['raw_bytes'])}, {restored}, every hash checked; "
        f"{human(result['fetched_bytes'])} downloaded, {human(result['cached_bytes'])} from the machine's cache, "
        f"{human(result['kept_bytes'])} of files stood there already."
    )
    if result["already_done"]:
        sentence = (
            f"It was woken from snapshot {result['snapshot_id']} before: nothing was restored, and what was changed "
            "there since is as it was."
        )
    return bounded(
        [
            f"# {result['machine']} is awake as {result['instance']}",
            "",
            sentence,
            "",
            stages_table(result["timings_ms"]),
            "",
            charts.throughput(samples, {"downloaded": "fetched_bytes", "written": "written_bytes"}),
        ]
    )
