"""Artifacts of the current run, and what reports share. One that cannot be written is logged, and fails nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

log = logging.getLogger(__name__)
ROWS_MAX = 1000
MARKDOWN_BYTES_MAX = 100_000
Row = dict[str, Any]


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Log an error that is raised inside, and go on. `what` is not written then."""
    try:
        yield
    except Exception as error:
        log.warning("%s was not written: %s", what, type(error).__name__)


def publish_table(key: str, rows: list[Row], description: str) -> None:
    """Show a table under `key`."""
    with best_effort(f"the table '{key}'"):
        create_table_artifact(table=rows, key=key, description=description)


def publish_markdown(key: str, text: str, description: str) -> None:
    """Show a text under `key`."""
    with best_effort(f"the report '{key}'"):
        create_markdown_artifact(text, key=key, description=description)


def publish_facts(facts: dict[str, Any]) -> None:
    """The figures alone, for programs, as one row of plain values: Prefect does not store what a flow returns."""
    publish_table("facts", [facts], "The figures of this run, for programs")


def bounded(lines: list[str]) -> str:
    """A report of these lines, the last ones left out where it would be too long for Prefect."""
    while sum(len(line.encode()) + 1 for line in lines) >= MARKDOWN_BYTES_MAX:
        lines.pop()
    return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Row]) -> str:
    """A table for a text, of rows with the same names; None is an empty cell. "" without rows."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def stages_table(timings_ms: dict[str, int]) -> str:
    """How long each stage of a run took, for a text."""
    return markdown_table([{"stage": name, "seconds": f"{ms / 1000:.2f}"} for name, ms in timings_ms.items()])


def _cell(value: object) -> str:
    """Escaped: a prompt or an error may hold any characters."""
    text = str(value if value is not None else "")[:2000].replace("\n", " ").replace("|", "\\|")
    return text.replace("<", "&lt;").replace("[", "\\[").replace("!", "\\!")
