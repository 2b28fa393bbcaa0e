"""A progress bar in a terminal: bytes, ratio, GB/s, time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class Bar:
    """One step's bar on stderr; gone when the step ends, but for its last line."""

    def __init__(self, what: str, total: int) -> None:
        columns = [TextColumn("{task.description:>10}")]
        if total:
            self._bar = Progress(
                *columns, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TextColumn("{task.fields[ratio]}"),
                TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
        else:
            self._bar = Progress(
                *columns, TextColumn("{task.completed} entries"), TimeElapsedColumn(), console=Console(stderr=True)
            )
        self._task = self._bar.add_task(what, total=total or None, ratio="")

    def entries(self, count: int) -> None:
        self._bar.update(self._task, completed=count)

    def bytes(self, done: int, coded: int) -> None:
        low, high = sorted((done, coded))
        ratio = f"ratio {high / low:.2f}" if low else ""
        self._bar.update(self._task, completed=done, ratio=ratio)

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
