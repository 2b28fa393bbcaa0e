"""A result's page: what every report shows alike, and how it is written."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """One target: `met` is None where it could not be measured, and `value` then says why."""

    row: str
    what: str
    target: str
    value: str
    met: bool | None


@dataclass(slots=True, kw_only=True)
class Page(ABC):
    """A report with targets and failures; a kind of report adds its figures and says how they are shown."""

    findings: list[Finding] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @abstractmethod
    def head(self) -> list[str]:
        """The lines above the targets."""

    @abstractmethod
    def figures(self) -> list[str]:
        """The lines between targets and failures; each section begins with an empty line."""

    def as_markdown(self) -> str:
        cells = [[f.row, f.what, f.target, f.value, verdict(f.met)] for f in self.findings]
        lines = [*self.head(), "", "## Targets", "", *table(["", "", "target", "measured", "met"], cells)]
        lines += self.figures()
        if self.failures:
            lines += ["", "## Failed", "", *(f"- {name}: {why}" for name, why in self.failures.items())]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write `name`.md and `name`.json into `folder`; the paths written."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for suffix, text in ((".md", self.as_markdown()), (".json", self.as_json())):
            path = folder / f"{name}{suffix}"
            path.write_text(text)
            written.append(path)
        return written


def verdict(met: bool | None) -> str:
    return {True: "yes", False: "NO", None: "not measured"}[met]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose source lines up too, because it is also printed on a terminal."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
