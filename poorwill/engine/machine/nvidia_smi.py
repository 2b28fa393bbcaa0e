"""What nvidia-smi says of a machine's NVIDIA GPUs. Nothing else runs that program from Python."""

from __future__ import annotations

import shutil
import subprocess

from poorwill.errors import HostUnfit

GPUS_MAX = 64
TIMEOUT_S = 20.0
"""Without its persistence daemon the driver takes seconds to answer."""


def query(question: str, *, units: bool = True, path: str | None = None) -> list[list[str]]:
    """The cells of each line that nvidia-smi prints for `question`, such as `--query-gpu=name,memory.total`.

    units: whether figures carry theirs (`81559 MiB`).
    path: where the program is looked for; None: $PATH.
    HostUnfit: the program is missing, fails, or does not answer within TIMEOUT_S.
    """
    program = shutil.which("nvidia-smi", path=path)
    if program is None:
        raise HostUnfit("nvidia-smi is not installed")
    command = [program, question, "--format=csv,noheader" if units else "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=True
        ).stdout
    except subprocess.TimeoutExpired:
        raise HostUnfit(f"nvidia-smi did not answer within {TIMEOUT_S:.0f} s") from None
    except subprocess.CalledProcessError as error:
        words = bytes(error.stdout or error.stderr or b"").decode("utf-8", "replace").split("\n")[0]
        raise HostUnfit(f"nvidia-smi ended with status {error.returncode}: {words[:120]}") from None
    except OSError as error:
        raise HostUnfit(f"nvidia-smi cannot be run: {error.strerror}") from None
    return [[cell.strip() for cell in line.split(",")] for line in printed.decode("utf-8", "replace").splitlines()]


def gpus_and_driver(path: str | None = None) -> tuple[list[str], str]:
    """The GPUs as "name, memory", and the driver's version; ([], "") where nvidia-smi is missing or fails."""
    rows = [row for row in _query_or_nothing("--query-gpu=name,memory.total,driver_version", path) if len(row) > 1]
    return [", ".join(row[:-1])[:100] for row in rows], rows[0][-1][:40] if rows else ""


def gpu_uuids(path: str | None = None) -> tuple[str, ...]:
    """`GPU-...` of each GPU, which means the same in every process; () where nvidia-smi is missing or fails."""
    return tuple(row[0] for row in _query_or_nothing("--query-gpu=uuid", path) if row[0].startswith("GPU-"))


def _query_or_nothing(question: str, path: str | None) -> list[list[str]]:
    try:
        return query(question, path=path)[:GPUS_MAX]
    except HostUnfit:
        return []
