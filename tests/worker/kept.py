"""What lives as long as the process: Prefect loads a flow's own file anew for each run, but not this one."""

from __future__ import annotations

RUNS: list[str] = []
BALLAST: list[bytearray] = []
