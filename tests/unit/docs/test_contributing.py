"""CONTRIBUTING names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PATH = re.compile(r"`([a-z_]+/[\w./-]+|[\w-]+\.(?:py|md|toml|txt|yaml))`")


def test_every_file_that_contributing_names_exists() -> None:
    """A row of the table that leads nowhere is found here, and the table has rows."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| **")]
    assert len(rows) >= 25
    assert all(PATH.search(row.split("|")[2]) for row in rows)
    missing = sorted(path for path in set(PATH.findall(page)) if not (ROOT / path).exists())
    assert missing == []
