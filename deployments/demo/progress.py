"""Live progress of a flow that runs in this process: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from poorwill.cli.output import human

if TYPE_CHECKING:
    from tasks.sessions import Live

BAR_EVERY_S = 0.1
LINE_EVERY_S = 2.0


@dataclass(slots=True)
class Step:
    """One step. `total`, `done`, `coded` are bytes; a step without `total` counts entries.

    began_s: when it was last seen with nothing done.
    """

    name: str
    began_s: float
    done: int = 0
    total: int = 0
    coded: int = 0
    seconds: float = 0.0

    def figures(self) -> str:
        """What to show beside its bar."""
        if not self.total:
            return f"{self.done} entries"
        words = [f"{human(self.done)} of {human(self.total)}"]
        if self.coded:
            # What is read runs ahead of what is coded by the buffers between them.
            about = "~" if self.done < self.total else ""
            words.append(f"ratio {about}{self.done / self.coded:.2f}")
        if self.done and self.seconds:
            words.append(f"{self.done / self.seconds / 1e9:.2f} GB/s")
            left_s = (self.total - self.done) * self.seconds / self.done
            words.append(f"eta {left_s:.0f} s" if self.done < self.total else f"in {self.seconds:.1f} s")
        return "  ".join(words)


def _seen(live: Live) -> list[tuple[str, int, int, int]]:
    """(name, done, total, coded) of each step that the engine's counters show, in their order."""
    counters, found = live.session.counters, []
    if live.snapshot is None and live.restore is None and counters.get("entries"):
        found.append(("scan", counters["entries"], 0, 0))
    if live.snapshot is not None and live.snapshot.scanned:
        scanned = live.snapshot.scanned
        found.append(("scan", int(scanned["entries"]), 0, 0))
        found.append(
            ("pack", counters.get("read_bytes", 0), int(scanned["pack_bytes"]), counters.get("coded_bytes", 0))
        )
        checked, stored = counters.get("checked_bytes", 0), sum(part.size for part in live.snapshot.done.values())
        if checked:
            found.append(("verify", checked, stored, 0))
    if live.restore is not None:
        # What is fetched runs ahead of what is written: their quotient would say nothing yet.
        found.append(("restore", counters.get("written_bytes", 0), live.restore.raw_bytes, 0))
    return found


class Steps:
    """The steps of one flow, brought up to date from its live side by `update`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.by_name: dict[str, Step] = {}

    def update(self, live: Live) -> None:
        """Counters only grow: an engine that was started again counts from 0, and the bar waits for it."""
        now = self._clock()
        for name, done, total, coded in _seen(live):
            step = self.by_name.setdefault(name, Step(name, now))
            if done > step.done:
                step.done, step.seconds = done, now - step.began_s
            elif not step.done:
                step.began_s = now
            step.coded = max(step.coded, coded)
            step.total = max(total, step.done) if total else 0


class ProgressView:
    """`with ProgressView(console, find):` shows how far the flow is that runs inside the block.

    find: the live side of the flow's run, None while it has none.
    """

    def __init__(self, console: Console, find: Callable[[], Live | None]) -> None:
        self._find = find
        self._steps = Steps()
        self._ended = threading.Event()
        self._show: Bars | Lines = Bars(console) if console.is_terminal else Lines(console)
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(BAR_EVERY_S):
            self._look()

    def _look(self) -> None:
        live = self._find()
        if live is not None:
            self._steps.update(live)
            self._show.show(self._steps)

    def __enter__(self) -> ProgressView:
        self._show.begin()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(10 * BAR_EVERY_S)
        self._show.end(self._steps, completed=error is None)


class Bars:
    """One bar for each step, for people."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("  "),
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}

    def begin(self) -> None:
        self._progress.start()

    def show(self, steps: Steps) -> None:
        for name, step in steps.by_name.items():
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name, total=None, figures="")
            total = step.total or (step.done if len(steps.by_name) > 1 else None)
            self._progress.update(self._bars[name], total=total, completed=step.done, figures=step.figures())

    def end(self, steps: Steps, *, completed: bool) -> None:
        """A flow that completed has finished its steps, also where the last counters came too late to be shown."""
        for step in steps.by_name.values() if completed else ():
            step.done = step.total or step.done
        self.show(steps)
        self._progress.stop()


class Lines:
    """The newest step as a line, at most every LINE_EVERY_S, for logs."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._next_s = 0.0
        self._last = ""

    def begin(self) -> None:
        self._next_s = self._clock()

    def show(self, steps: Steps) -> None:
        now = self._clock()
        begun = [step for step in steps.by_name.values() if step.done]
        if not begun or now < self._next_s:
            return
        step = begun[-1]
        line = f"   {step.name:<8} {step.figures()}"
        if line != self._last:
            self._console.print(line, highlight=False)
            self._last, self._next_s = line, now + LINE_EVERY_S

    def end(self, steps: Steps, *, completed: bool) -> None:
        return
