"""The tiny pipelines themselves: small, and the same each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from deployments.demo import tiny_models

BYTES_MAX = 1_000_000


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): blake3(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", ["skyreels", "ltx", "wan"])
def test_they_are_small_and_always_the_same(tiny: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    """So that a demo, a test and a benchmark of another day speak of the same one. Weights are safetensors."""
    again = tiny_models.make(name, tmp_path / name)
    assert digests(again) == digests(tiny(name))
    assert sum(path.stat().st_size for path in again.rglob("*")) < BYTES_MAX
    assert {path.suffix for path in again.rglob("*") if path.stat().st_size > 50_000} <= {".safetensors", ""}
