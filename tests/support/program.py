"""The installed program `poorwill`, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = str(Path(sys.executable).parent / "poorwill")
TIMEOUT_S = 90.0


@dataclass
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def done(self) -> dict[str, Any]:
        """The last JSON line of a command that succeeded."""
        last = self.events[-1]
        assert last["event"] == "done", last
        return last


def start(*arguments: str | Path, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command; its output can be read from pipes unless `options` say otherwise."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([PROGRAM, *map(str, arguments)], env=environment(env), **{**pipes, **options})


def poorwill(*arguments: str | Path, env: dict[str, str] | None = None, **options: Any) -> Ran:
    """Run a command to its end."""
    process = start(*arguments, env=env, **options)
    out, err = process.communicate(timeout=TIMEOUT_S)
    return Ran(process.returncode, (out or b"").decode(), (err or b"").decode())


def environment(added: dict[str, str] | None = None) -> dict[str, str]:
    """Ours without credentials of whoever runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", **(added or {})}
