"""`python -m lint.rooms`: how many imports lead from one room of a package to another, and that they do not grow.

A room is a folder, or a file that lies loose in the package. Two rooms count once, however many of their files import
each other: the figure says how much of a package has to be known to change one room of it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from lint.sources import Source, tracked

DOORS_MAX = {"poorwill/engine": 40, "poorwill/control": 7, "api": 40, "deployments": 10}


def imported(source: Source, modules: frozenset[str]) -> Iterator[str]:
    """The modules of `modules` that `source` imports from."""
    for node in ast.walk(source.tree()):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules else node.module


def doors(package: str) -> set[tuple[str, str]]:
    """Pairs (room, the room it imports from) of `package`, a folder."""
    sources = list(tracked(package))
    modules, prefix = frozenset(source.module for source in sources), package.replace("/", ".") + "."
    found = set()
    for source in sources:
        room = source.module.removeprefix(prefix).split(".")[0]
        for module in imported(source, modules):
            other = module.removeprefix(prefix).split(".")[0]
            if module.startswith(prefix) and other != room:
                found.add((room, other))
    return found


if __name__ == "__main__":
    failed = False
    for package, doors_max in DOORS_MAX.items():
        pairs = doors(package)
        print(f"{package}: {len(pairs)} imports between rooms, at most {doors_max}")
        if len(pairs) > doors_max:
            failed = True
            print("\n".join(f"  {room} -> {other}" for room, other in sorted(pairs)))
    sys.exit(failed)
