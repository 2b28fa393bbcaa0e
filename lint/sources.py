"""The Python files that git tracks, read once."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """One file. `path` is relative to the repository's root, with `/`."""

    path: str
    text: str

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)


def tracked(*folders: str) -> Iterator[Source]:
    """Every tracked or new Python file below `folders`, or of the whole repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *(folders or ["."])]
    listed = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout
    for path in filter(None, listed.split("\0")):
        file = Path(path)
        if file.suffix == ".py" and file.exists():
            yield Source(path, file.read_text())
