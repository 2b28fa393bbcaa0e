"""A followed run as people see it in a terminal, and as programs read it."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from poorwill.cli.following import Look, Measure
from poorwill.errors import PoorwillError, one_line
from poorwill.snapshot import durations

CHILDREN_SHOWN_MAX = 16


class Bars(Live):
    """Bars on stderr, which disappear when the run is over."""

    def __init__(self) -> None:
        super().__init__(console=Console(stderr=True), transient=True, refresh_per_second=8)
        self._spinner = Spinner("dots")

    def look(self, look: Look) -> None:
        self._spinner.update(text=Text(sentence(look)))
        rows = Table.grid(padding=(0, 1))
        for measure in look.measures:
            _add(rows, measure.progress.step, measure)
        for child in look.children[:CHILDREN_SHOWN_MAX]:
            _add(rows, sentence(child), child.measures[-1] if child.measures else None)
        more = len(look.children) - CHILDREN_SHOWN_MAX
        self.update(Group(self._spinner, rows, *([Text(f"and {more} more")] if more > 0 else [])))

    def away(self, error: PoorwillError) -> None:
        self._spinner.update(text=Text(f"{error.message}; asked again"))


def sentence(look: Look) -> str:
    """The run in a line: its name, its state, the step and how many of its parts are done."""
    # Until it begins, its name is one that Prefect made up.
    name = one_line(look.run.name) if look.run.began_s is not None else "run"
    words = [name, str(look.run.status) if look.run.state_type != "CANCELLING" else "is being cancelled"]
    step = look.step
    if step is not None and not look.run.status.is_over:
        parts = " parts" if step.name.endswith("_part") else ""
        words.append(f"{step.name} {step.done}/{step.all}{parts}" if step.all > 1 else step.name)
    if look.note:
        words.append(f"({look.note})")
    return "  ".join(words)


def _add(rows: Table, name: str, measure: Measure | None) -> None:
    if measure is None:
        rows.add_row(f"  {one_line(name)}", "", "", "", "")
        return
    percent, eta_s = measure.progress.percent, measure.progress.eta_s
    rate = f"{measure.rate:.1f} %/s" if measure.rate and percent < 100 else ""
    left = f"eta {durations.rough(eta_s)}" if eta_s is not None else ""
    bar = ProgressBar(total=100, completed=percent, width=40)
    rows.add_row(f"  {one_line(name)}", bar, f"{percent:5.1f}%", rate, left)


def facts(look: Look) -> dict[str, Any]:
    """The same for programs: `measures` in percent, `steps` with how many of each are done."""
    step, shown = look.step, [measure.progress for measure in look.measures]
    found: dict[str, Any] = {
        "step": step.name if step is not None else None,
        "measures": {progress.step: progress.percent for progress in shown},
        "steps": {step.name: {"done": step.done, "all": step.all} for step in look.steps},
        "eta_s": max((progress.eta_s for progress in shown if progress.eta_s is not None), default=None),
    }
    if look.children:
        found["runs"] = [
            {"run_id": c.run.id, "name": c.run.name, "status": c.run.status, **facts(c)} for c in look.children
        ]
    return found
