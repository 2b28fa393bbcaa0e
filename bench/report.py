"""What a benchmark found: timings, and the targets they are held against."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.gateway.figures import GatewayFigures
from bench.generation.figures import Generation
from bench.measure import Spread
from bench.page import Page, table


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


@dataclass(slots=True)
class Report(Page):
    """Everything one call of the benchmark found."""

    date: str
    kind: str  # what the figures are, in words
    runs: int
    machine: dict[str, str | int]
    versions: dict[str, str | None]
    timings: list[Timing] = field(default_factory=list)
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

    def head(self) -> list[str]:
        machine = self.machine
        return [
            f"# Benchmark of {self.date}",
            "",
            f"{machine['cpu']}, {machine['cores']} cores, "
            f"{int(machine['memory_bytes']) / 2**30:.0f} GiB memory, {machine['kernel']}, "
            f"Python {machine['python']}; everything on {machine['filesystem']}; {self.kind}; "
            f"load before the start {machine['load_before']}.",
            "",
            "Versions: " + "; ".join(f"{name}: {found or 'not installed'}" for name, found in self.versions.items()),
        ]

    def figures(self) -> list[str]:
        if not self.timings:
            return []
        columns = ["workspace", "step", "", "wall s", "GB/s", "CPU-s", "raw/stored", "peak memory MB"]
        return ["", "## Measurements", "", *table(columns, [_timing_cells(timing) for timing in self.timings])]


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
