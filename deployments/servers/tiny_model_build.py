"""Builds a tiny video model beside what else starts: see deployments/demo/tiny_models.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from deployments.servers import child_process
from poorwill.errors import PoorwillError

BUILD_TIMEOUT_S = 300.0


class TinyModelBuild:
    """A SkyReels in `folder`, from a process of its own: importing torch takes seconds, and much memory.

    The folder is there once it is whole.
    """

    def __init__(self, folder: Path, log_path: Path) -> None:
        self.folder, self._log_path = folder, log_path
        command = [sys.executable, "-m", "deployments.demo.tiny_models", "skyreels", str(folder)]
        self._process = child_process.start(command, environment=os.environ, log_path=log_path, name="tiny-model")

    def wait(self) -> None:
        """Until it is built. PoorwillError if it could not be."""
        try:
            status = self._process.wait(BUILD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = -1
        if status:
            raise PoorwillError(f"the tiny video model was not built: {child_process.last_line(self._log_path)[:300]}")

    def stop(self) -> None:
        """Idempotent."""
        child_process.end(self._process, signal.SIGKILL)
