"""A progress bar in a terminal: bytes, ratio, GB/s, time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One step's bar."""

    progress: Progress
    task: TaskID

    def entries(self, count: int) -> None:
        self.progress.update(self.task, completed=count)

    def bytes(self, done: int, coded: int) -> None:
        low, high = sorted((done, coded))
        ratio = f"ratio {high / low:.2f}" if low else ""
        self.progress.update(self.task, completed=done, ratio=ratio)


@contextmanager
def bar(what: str, total: int) -> Iterator[Bar]:
    """A bar on stderr, which leaves its last line when the step ends. total: 0 where it is not known."""
    columns: list[ProgressColumn] = [TextColumn("{task.description:>10}")]
    if total:
        columns += [
            BarColumn(), DownloadColumn(), TransferSpeedColumn(), TextColumn("{task.fields[ratio]}"),
            TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(),
        ]  # fmt: skip
    else:
        columns += [TextColumn("{task.completed} entries"), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bar(progress, progress.add_task(what, total=total or None, ratio=""))
