"""`python -m lint.lengths`: no file and no function is longer than a reader holds in mind."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from lint.sources import Source, tracked

FILE_LINES_MAX = 350
TEST_FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60


def too_long(source: Source) -> Iterator[str]:
    """A line for each limit that `source` exceeds. The length of a test function is not limited."""
    is_test = source.path.startswith("tests/")
    lines, lines_max = source.text.count("\n"), TEST_FILE_LINES_MAX if is_test else FILE_LINES_MAX
    if lines > lines_max:
        yield f"{source.path}: {lines} lines, expected at most {lines_max}: split it by its nouns"
    for node in () if is_test else ast.walk(source.tree()):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield (
                    f"{source.path}:{node.lineno}: {node.name} has {length} lines, expected at most "
                    f"{FUNCTION_LINES_MAX}: split it by its steps"
                )


if __name__ == "__main__":
    found = [line for source in tracked() for line in too_long(source)]
    print("\n".join(found) or "No file and no function is too long.")
    sys.exit(bool(found))
