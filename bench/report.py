"""What a benchmark found: timings, and the targets they are held against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.gateway.figures import GatewayFigures
from bench.generation.figures import Generation
from bench.measure import Spread


@dataclass(frozen=True, slots=True)
class Timing:
    """One step of one contestant on one workspace. Seconds and bytes."""

    workspace: str
    step: str
    contestant: str
    raw_bytes: int
    wall_s: Spread
    cpu_s: Spread
    stored_bytes: int | None = None
    memory_peak_bytes: Spread | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One target: `met` is None where it could not be measured, and `value` then says why."""

    row: str
    what: str
    target: str
    value: str
    met: bool | None


@dataclass(slots=True)
class Report:
    """Everything one call of the benchmark found."""

    date: str
    kind: str  # what the figures are, in words
    runs: int
    machine: dict[str, str | int]
    versions: dict[str, str | None]
    timings: list[Timing] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    generation: Generation = field(default_factory=Generation)
    gateway: GatewayFigures = field(default_factory=GatewayFigures)

    def timing(self, workspace: str, step: str, contestant: str) -> Timing | None:
        """The timing of that name, or None if it was not measured."""
        for timing in self.timings:
            if (timing.workspace, timing.step, timing.contestant) == (workspace, step, contestant):
                return timing
        return None

    def why_not(self, *contestants: str) -> str:
        """Why a target that needs these contestants was not measured."""
        for name in contestants:
            if not self.versions.get(name):
                return f"{name}: not installed"
            if any(failed.endswith(f", {name}") for failed in self.failures):
                return f"{name}: failed, see below"
        return "not measured"

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def as_markdown(self) -> str:
        machine = self.machine
        lines = [
            f"# Benchmark of {self.date}",
            "",
            f"{machine['cpu']}, {machine['cores']} cores, "
            f"{int(machine['memory_bytes']) / 2**30:.0f} GiB memory, {machine['kernel']}, "
            f"Python {machine['python']}; everything on {machine['filesystem']}; {self.kind}; "
            f"load before the start {machine['load_before']}.",
            "",
            "Versions: " + "; ".join(f"{name}: {found or 'not installed'}" for name, found in self.versions.items()),
            "",
            "## Targets",
            "",
            *table(
                ["", "", "target", "measured", "met"],
                [[f.row, f.what, f.target, f.value, verdict(f.met)] for f in self.findings],
            ),
        ]
        if self.timings:
            head = ["workspace", "step", "", "wall s", "GB/s", "CPU-s", "raw/stored", "peak memory MB"]
            lines += ["", "## Measurements", "", *table(head, [_timing_cells(timing) for timing in self.timings])]
        if self.failures:
            lines += ["", "## Failed", "", *(f"- {name}: {why}" for name, why in self.failures.items())]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write `name`.md and `name`.json into `folder`; the paths written."""
        return write(folder, name, self.as_markdown(), self.as_json())


def write(folder: Path, name: str, markdown: str, json_text: str) -> list[Path]:
    """A result's page and its raw figures beside each other; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, text in ((".md", markdown), (".json", json_text)):
        path = folder / f"{name}{suffix}"
        path.write_text(text)
        written.append(path)
    return written


def verdict(met: bool | None) -> str:
    return {True: "yes", False: "NO", None: "not measured"}[met]


def _spread(spread: Spread, digits: int = 2) -> str:
    if spread.runs == 1:
        return f"{spread.median:.{digits}f}"
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f} - {spread.high:.{digits}f})"


def _timing_cells(timing: Timing) -> list[str]:
    memory = timing.memory_peak_bytes
    # A sampled run is slowed by the sampling: its times would mislead.
    timed = memory is None
    return [
        timing.workspace,
        timing.step,
        timing.contestant,
        _spread(timing.wall_s) if timed else "",
        f"{timing.raw_bytes / timing.wall_s.median / 1e9:.2f}" if timed else "",
        f"{timing.cpu_s.median:.2f}" if timed else "",
        f"{timing.raw_bytes / timing.stored_bytes:.3f}" if timing.stored_bytes else "",
        ""
        if memory is None
        else _spread(Spread(memory.median / 1e6, memory.low / 1e6, memory.high / 1e6, memory.runs), 0),
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose source lines up too, because it is also printed on a terminal."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
