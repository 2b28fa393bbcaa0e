"""Artifacts of the current run. A report that cannot be written is logged, and fails nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

log = logging.getLogger(__name__)
ROWS_MAX = 1000
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
