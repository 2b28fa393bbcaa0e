"""The artifacts of a run, for people and for programs. What a flow returns is not stored."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from poorwill.errors import PoorwillError, RunFailed, error_type, one_line
from poorwill.runs import Failure

FACTS = "facts"
ROWS_SHOWN_MAX = 16
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
Artifact = dict[str, Any]


def newest(artifacts: Sequence[Artifact]) -> dict[str, Artifact]:
    """By key, oldest first. `artifacts` come newest first: of a run that began again, the later one counts."""
    found: dict[str, Artifact] = {}
    for artifact in artifacts:
        found.setdefault(str(artifact.get("key")), artifact)
    return dict(reversed(found.items()))


def facts(artifacts: dict[str, Artifact]) -> dict[str, Any]:
    """The figures that the flow left for programs; may be empty."""
    rows = _rows(artifacts.get(FACTS, {}))
    return rows[0] if rows else {}


def tables(artifacts: dict[str, Artifact]) -> dict[str, list[dict[str, Any]]]:
    """Rows by the table's key."""
    return {key: _rows(found) for key, found in artifacts.items() if found.get("type") == "table" and key != FACTS}


def links(artifacts: dict[str, Artifact]) -> dict[str, str]:
    """URLs by the link's key. A link artifact is markdown with a link and nothing else."""
    found = {key: _LINK.fullmatch(str(a.get("data")).strip()) for key, a in artifacts.items()}
    return {key: link[2] for key, link in found.items() if link is not None}


def text(artifacts: dict[str, Artifact]) -> list[str]:
    """Lines for a terminal: the reports without their pictures, tables that no report holds, and links."""
    lines: list[str] = []
    found = links(artifacts)
    reports = [str(a.get("data")) for k, a in artifacts.items() if a.get("type") == "markdown" and k not in found]
    for report in reports:
        lines += from_markdown(report)
    for key, rows in tables(artifacts).items() if not reports else ():
        lines += ["", one_line(str(artifacts[key].get("description") or key)), *aligned(rows)]
    lines += [f"{key}: {one_line(url)}" for key, url in found.items()]
    return _tidied(lines)


def from_markdown(report: str) -> list[str]:
    """Its lines without pictures and links, its tables in columns."""
    lines: list[str] = []
    table: list[list[str]] = []
    for line in [*report.splitlines(), ""]:
        if line.startswith("|"):
            table.append([_plain(cell) for cell in re.split(r"(?<!\\)\|", line.strip("|"))])
            continue
        if table:
            lines += _columns([row for row in table if set("".join(row)) - set("-: ")])
            table = []
        if _LINK.search(line) is None or line.startswith("#"):
            lines.append(_plain(line).lstrip("# "))
    return lines


def aligned(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Dictionaries of one shape as lines, under their names."""
    if not rows:
        return []
    names = list(rows[0])
    cells = [[one_line(str("" if row.get(name) is None else row[name])) for name in names] for row in rows]
    return _columns([names, *cells])


def failure(run_name: str, state_type: str, message: str) -> PoorwillError:
    """The error that a run failed with, if its message names one; else RunFailed."""
    found = Failure.of_state(state_type, message)
    kind = error_type(found.type)
    if kind is not None:
        return kind(found.message)
    last = message.strip().splitlines()[-1] if message.strip() else "no reason was given"
    return RunFailed(f"{run_name} {'crashed' if state_type == 'CRASHED' else 'failed'}: {last[:1000]}")


def _columns(table: list[list[str]]) -> list[str]:
    shown = table[: ROWS_SHOWN_MAX + 1]
    widths = [max(len(row[n]) for row in shown if n < len(row)) for n in range(max(map(len, shown), default=0))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in shown]
    more = len(table) - len(shown)
    return [*lines, *([f"... and {more} more in Prefect's UI"] if more else [])]


def _rows(artifact: Artifact) -> list[dict[str, Any]]:
    data = artifact.get("data")
    try:
        found = json.loads(data) if isinstance(data, str) else data
    except ValueError:
        return []
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _plain(line: str) -> str:
    """Without pictures, and without the escapes that keep a prompt from being markup."""
    line = _LINK.sub(r"\1", _IMAGE.sub("", line)).replace("&lt;", "<")
    return one_line(re.sub(r"\\([|\[!])", r"\1", line)).strip()


def _tidied(lines: list[str]) -> list[str]:
    """At most one empty line in a row, none at either end."""
    kept = [line for n, line in enumerate(lines) if line or (n and lines[n - 1])]
    while kept and not kept[-1]:
        kept.pop()
    return kept[1:] if kept and not kept[0] else kept
