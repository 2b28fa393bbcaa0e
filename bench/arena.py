"""Where experiments take place: one scratch folder, one workspace at a time, one report."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from bench import workspace
from bench.measure import Command, CommandFailed, Spread, Usage, run, settled
from bench.peers.ballast import Ballast
from bench.peers.tools import ALL, Contestant, Site
from bench.report import Report, Timing
from bench.tree import tree_bytes, tree_digest

SMALL = {"weights": "weights-small", "many": "many-small", "weights-8gb": "weights-small"}
# What a restore of the 2 GB workspace takes: the files, and the largest of the programs.
BALLAST_BYTES, BALLAST_BYTES_SMALL = 3_500_000_000, 300_000_000


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Made:
    """A workspace that lies ready. `label` is what the report calls it."""

    label: str
    path: Path
    raw_bytes: int
    digest: str


class Arena:
    """Runs experiments in one scratch folder and writes what they found into one report.

    Only one workspace and one contestant's output exist at a time, apart from the unchanged row, which
    needs two repositories: the scratch folder is memory.
    """

    def __init__(self, scratch: Path, report: Report, *, small: bool = False) -> None:
        self.report = report
        self.scratch = scratch
        self._small = small
        self._made: Made | None = None
        self._ballast = Ballast(BALLAST_BYTES_SMALL if small else BALLAST_BYTES)

    def measured(self, command: Command, *, memory: bool = False) -> Usage:
        """Run one command: for its times, with warm memory to take; or for its memory, sampled."""
        if not memory:
            self._ballast.hold()
        settled()
        self._ballast.release()
        return run(command, memory=memory)

    def workspace(self, kind: str) -> Made:
        """The workspace of that kind, made now unless it is the one that lies there already."""
        if self._made is None or self._made.label != kind:
            self.drop_workspace()
            say(f"making workspace {kind}")
            path = self.scratch / "workspace"
            workspace.make(SMALL[kind] if self._small else kind, path)
            self._made = Made(kind, path, tree_bytes(path), tree_digest(path))
        return self._made

    def drop_workspace(self) -> None:
        if self._made is not None:
            shutil.rmtree(self._made.path)
            self._made = None

    def clear(self) -> None:
        """Give back what workspaces and warm memory take, for an experiment that needs neither."""
        self.drop_workspace()
        self._ballast.release()

    def site(self, name: str) -> Site:
        """A fresh pair of places for one contestant."""
        folder = self.scratch / "sites" / "".join(c if c.isalnum() else "-" for c in name)
        folder.mkdir(parents=True, exist_ok=True)
        return Site(folder / "repository", folder / "home")

    def contestants(self, names: tuple[str, ...]) -> dict[str, Contestant]:
        """Those of `names` that are installed, in that order."""
        return {name: ALL[name]() for name in names if self.report.versions.get(name)}

    def failed(self, experiment: str, failures: dict[str, str]) -> None:
        """Record why contestants dropped out, without a path of this machine."""
        for name, why in failures.items():
            say(f"{experiment}: {name} FAILED: {why}")
            for path, shown in ((self.scratch, "<scratch>"), (Path.cwd(), "<checkout>")):
                why = why.replace(str(path), shown)
            self.report.failures[f"{experiment}, {name}"] = why

    def add(self, made: Made, step: str, name: str, usages: list[Usage], stored: int | None = None) -> None:
        """Put the runs of one step into the report; nothing if there were none."""
        if not usages:
            return
        peaks = [u.memory_peak_bytes for u in usages if u.memory_peak_bytes is not None]
        timing = Timing(
            workspace=made.label,
            step=step,
            contestant=name,
            raw_bytes=made.raw_bytes,
            wall_s=Spread.of([u.wall_s for u in usages]),
            cpu_s=Spread.of([u.cpu_s for u in usages]),
            stored_bytes=stored,
            memory_peak_bytes=Spread.of(peaks) if peaks else None,
        )
        self.report.timings.append(timing)

    def unpacked(self, contestant: Contestant, site: Site, made: Made, *, compare: bool, memory: bool) -> Usage:
        """Unpack into a new folder, compare it if told so, remove it. CommandFailed if a byte differs."""
        target = self.scratch / "restored"
        try:
            usage = self.measured(contestant.unpack(target, site), memory=memory)
            if compare and tree_digest(target) != made.digest:
                raise CommandFailed(f"{contestant.name} gave back something else than it was given")
        finally:
            shutil.rmtree(target, ignore_errors=True)
            if not memory:
                self._ballast.hold()
        return usage
