"""Live progress of a flow that runs in this process: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from poorwill.errors import EngineLost
from poorwill.snapshot.sizes import human

if TYPE_CHECKING:
    from tasks.sessions import Live

LOOK_EVERY_S = 0.1
LINE_EVERY_S = 2.0


class Figures(ProgressColumn):
    """Beside a step's bar: bytes with their ratio, speed and time, or a number of entries."""

    def render(self, task: Task) -> Text:
        return Text(figures(task))


def figures(task: Task) -> str:
    if not task.fields["in_bytes"]:
        return f"{task.completed:.0f} entries"
    done, total, coded, seconds = task.completed, task.total or 0, task.fields["coded_bytes"], task.fields["seconds"]
    words = [f"{human(done)} of {human(total)}"]
    if coded:
        # Reading runs ahead of coding by the buffers between them.
        words.append(f"ratio {'' if task.finished else '~'}{done / coded:.2f}")
    if done and seconds:
        words.append(f"{done / seconds / 1e9:.2f} GB/s")
        words.append(f"in {seconds:.1f} s" if task.finished else f"eta {(total - done) * seconds / done:.0f} s")
    return "  ".join(words)


class ProgressView:
    """`with ProgressView(console, find):` shows how far the flow is that runs inside the block.

    find: the live side of the flow's run; EngineLost while it has none.
    """

    def __init__(self, console: Console, find: Callable[[], Live]) -> None:
        self._console, self._find = console, find
        self._progress = Progress(
            TextColumn("  "),
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=30),
            Figures(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._line, self._next_line_s = "", time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> ProgressView:
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._ended.set()
        self._thread.join(10 * LOOK_EVERY_S)
        # A flow that completed has finished its steps, also where the last counters came too late to be shown.
        for task in self._progress.tasks if error is None else []:
            self._progress.update(task.id, total=task.total or task.completed, completed=task.total or task.completed)
        self._progress.stop()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            try:
                live = self._find()
            except EngineLost:
                continue
            self._update(live)
            if not self._console.is_terminal:
                self._print_newest()

    def _update(self, live: Live) -> None:
        """An engine that was started again counts from 0; the bar waits until it is where the first one was."""
        steps, now_s = _steps(live), time.monotonic()
        for name, done, total, coded in steps:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(
                    name, total=None, in_bytes=bool(total), coded_bytes=0, began_s=now_s, seconds=0.0
                )
            task = self._progress.tasks[self._tasks[name]]
            if done > task.completed:
                task.fields["seconds"] = now_s - task.fields["began_s"]
            elif not task.completed:
                task.fields["began_s"] = now_s
            done, coded = max(done, int(task.completed)), max(coded, task.fields["coded_bytes"])
            end = max(total, done) if total else done if len(steps) > 1 else None
            self._progress.update(task.id, total=end, completed=done, coded_bytes=coded)

    def _print_newest(self) -> None:
        """The newest step as a line, at most every LINE_EVERY_S, for logs."""
        begun = [task for task in self._progress.tasks if task.completed]
        if not begun or time.monotonic() < self._next_line_s:
            return
        line = f"   {begun[-1].description:<8} {figures(begun[-1])}"
        if line != self._line:
            self._console.print(line, highlight=False)
            self._line, self._next_line_s = line, time.monotonic() + LINE_EVERY_S


def _steps(live: Live) -> list[tuple[str, int, int, int]]:
    """(name, done, total, coded bytes) of each step that has begun, from the engine's counters, in their order.

    A step with a total counts bytes, one without counts entries.
    """
    counters, found = live.session.counters, []
    if live.snapshot is None and live.restore is None and counters.get("entries"):
        found.append(("scan", counters["entries"], 0, 0))
    if live.snapshot is not None and live.snapshot.scanned:
        scanned = live.snapshot.scanned
        found.append(("scan", scanned.entries, 0, 0))
        found.append(("pack", counters.get("read_bytes", 0), scanned.pack_bytes, counters.get("coded_bytes", 0)))
        if checked := counters.get("checked_bytes", 0):
            found.append(("verify", checked, sum(part.bytes for part in live.snapshot.done.values()), 0))
    if live.restore is not None:
        # Fetching runs ahead of writing, so that a ratio of the two would mislead.
        found.append(("restore", counters.get("written_bytes", 0), live.restore.raw_bytes, 0))
    return found
