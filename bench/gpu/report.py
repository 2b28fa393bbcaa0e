"""What a device was found to do: tables of figures, and the targets they are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.arena import say
from bench.measure import Spread
from bench.page import Page, table

T = TypeVar("T")
Row = dict[str, Any]
TITLES = {
    "resident": "On the device: bf16 weights",
    "sweep": "On the device: options of nvCOMP's ANS, bf16 weights",
    "kinds": "On the device: kinds of data, nvCOMP's own type beside planes",
    "copies": "Pinned copies",
    "host": "From host memory to host memory: bf16 weights",
    "portable": "Portable: planes by the GPU and by the CPU, bf16 weights",
    "engine": "The engine: a workspace of bf16 weights there and back",
    "lanes": "Where the time goes: the GPU's lanes, in seconds of one lane",
    "threads": "Where the time goes: the engine's codec threads, in seconds of all of them, looked at every 10 ms",
}
"""Sections in the order in which a report shows them."""


@dataclass(slots=True)
class GpuReport(Page):
    """Everything that one call of the benchmark found. Rows are JSON, with units at the end of their names."""

    date: str
    command: str
    kind: str
    device: dict[str, Any]
    machine: dict[str, Any]
    sections: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, section: str, row: Row) -> Row:
        self.sections.setdefault(section, []).append(row)
        say(f"{section}: " + ", ".join(f"{name} {shown(value)}" for name, value in row.items()))
        return row

    def note(self, line: str) -> None:
        if line not in self.notes:
            say(f"note: {line}")
            self.notes.append(line)

    def attempt(self, what: str, step: Callable[[], T]) -> T | None:
        """What `step` gives; None if it fails, which is told: one surprise of a device does not end the benchmark."""
        try:
            return step()
        except Exception as error:
            self.failures[what] = f"{type(error).__name__}: {error}"
            say(f"{what} FAILED: {self.failures[what]}")
            return None

    def rows(self, section: str, **wanted: Any) -> list[Row]:
        """The rows of a section that have these values."""
        return [row for row in self.sections.get(section, []) if all(row.get(name) == v for name, v in wanted.items())]

    def head(self) -> list[str]:
        return [
            f"# GPU benchmark of {self.date}: {self.device['name']}",
            "",
            f"`{self.command}`; {self.kind}.",
            "",
            *(f"- {name.replace('_', ' ')}: {value}" for name, value in (self.device | self.machine).items()),
            "",
            "GB/s are 10^9 raw bytes a second; a ratio is coded / raw bytes.",
            "",
            *(f"- {note}" for note in self.notes),
        ]

    def figures(self) -> list[str]:
        lines = []
        for section, title in TITLES.items():
            rows = self.sections.get(section, [])
            if rows:
                columns = list(dict.fromkeys(name for row in rows for name in row))
                cells = [[shown(row.get(name)) for name in columns] for row in rows]
                lines += ["", f"## {title}", "", *table([titled(name) for name in columns], cells)]
        return lines


def gb_s(raw_bytes: int, seconds: Spread) -> dict[str, float]:
    """Raw GB a second: median, lowest and highest, for a row."""
    return {name: raw_bytes / value / 1e9 for name, value in
            (("median", seconds.median), ("low", seconds.high), ("high", seconds.low))}  # fmt: skip


def median(row: Row, name: str) -> float | None:
    """The figure itself, whether it is a spread or a number; None if it was not measured."""
    value = row.get(name)
    if isinstance(value, dict):
        value = value["median"]
    return None if value is None else float(value)


def shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return f"{_number(value['median'])} ({_number(value['low'])} - {_number(value['high'])})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1.5 else f"{value:.2f}"


def titled(name: str) -> str:
    """A row's name as a heading: compress_gb_s is compress GB/s."""
    for suffix, unit in (("_gb_s", " GB/s"), ("_kib", " KiB"), ("_gb", " GB"), ("_s", " s")):
        if name.endswith(suffix):
            return name[: -len(suffix)].replace("_", " ") + unit
    return name.replace("_", " ")
