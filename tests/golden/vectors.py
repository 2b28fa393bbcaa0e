"""The test vectors of docs/snapshot-format.md and docs/codecs.md, read out of those pages."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "snapshot-format.md"


def hex_blocks() -> list[bytes]:
    """The hex dumps of the section "Test vectors", in order: a part, its manifest."""
    section = PAGE.read_text().split("\n## Test vectors\n")[1]
    blocks = re.findall(r"```\n([0-9a-f\n]+)```", section)
    return [bytes.fromhex(block) for block in blocks]


def codec_vector(name: str) -> bytes:
    """A marked hex dump of docs/codecs.md."""
    text = PAGE.with_name("codecs.md").read_text()
    found = re.search(rf"<!-- vector: {name} -->\n```\n([0-9a-f \n]+)```", text)
    assert found, f"docs/codecs.md has no vector '{name}'"
    return bytes.fromhex(found[1])


def raw_pages() -> dict[bytes, bytes]:
    """The raw bytes of the manifest's pages, by kind."""
    section = PAGE.read_text().split("\n## Test vectors\n")[1]
    rows = re.findall(r"^\| `(.{4})` \| \d+ \| `([0-9a-f ]*)` \|$", section, re.MULTILINE)
    return {kind.encode(): bytes.fromhex(found) for kind, found in rows}
