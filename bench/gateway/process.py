"""A gateway as a process of its own, for a measurement."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.measure import CommandFailed
from deployments.servers import child_process
from deployments.servers.loopback import free_port

START_TIMEOUT_S = 90.0


@contextmanager
def gateway_process(folder: Path, settings: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process and its port, once it answers; `settings` go over this process's environment. CommandFailed."""
    port, log = free_port(), folder / "gateway.log"
    process = child_process.start(
        [sys.executable, "-m", "api", "--port", str(port), "--quiet"],
        environment={**os.environ, **settings},
        log_path=log,
        name="gateway",
    )
    try:
        _until_alive(process, port, log)
        yield process, port
    finally:
        child_process.end(process, signal.SIGTERM)


def _until_alive(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    ends_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < ends_s and process.poll() is None:
        try:
            with opener.open(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise CommandFailed(f"the gateway did not start: {child_process.last_line(log)}")
