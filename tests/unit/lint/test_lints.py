"""The project's own lints find what they are for."""

from __future__ import annotations

import pytest

from lint.lengths import FILE_LINES_MAX, FUNCTION_LINES_MAX, TEST_FILE_LINES_MAX, too_long
from lint.rooms import imported
from lint.sources import Source

FUNCTION = "def f():\n" + "    pass\n" * FUNCTION_LINES_MAX


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("poorwill/long.py", "\n" * (FILE_LINES_MAX + 1), ["poorwill/long.py: 351 lines"]),
        ("poorwill/just.py", "\n" * FILE_LINES_MAX, []),
        ("tests/unit/test_long.py", "\n" * (TEST_FILE_LINES_MAX + 1), ["tests/unit/test_long.py: 601 lines"]),
        ("poorwill/f.py", FUNCTION, ["poorwill/f.py:1: f has 61 lines"]),
        ("poorwill/f.py", FUNCTION.replace("def", "async def"), ["poorwill/f.py:1: f has 61 lines"]),
        ("tests/unit/test_f.py", FUNCTION, []),
    ],
)
def test_lengths(path: str, text: str, words: list[str]) -> None:
    """A file and a function of one line too many are named, with their length; one at the limit is not."""
    found = list(too_long(Source(path, text)))
    assert len(found) == len(words)
    assert all(line.startswith(start) for line, start in zip(found, words, strict=True))


def test_imports_between_modules() -> None:
    """Modules and what is imported from modules count alike; what is not asked about does not count."""
    source = Source("a/b.py", "from a import c\nfrom a.d import e\nfrom os import path\n")
    assert [name for name in imported(source, frozenset({"a", "a.c", "a.d"})) if name.startswith("a")] == ["a.c", "a.d"]
