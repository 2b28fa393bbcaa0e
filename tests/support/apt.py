"""Installing a program that tests need with Debian's packages, where they run as root in a container."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

INSTALL_TIMEOUT_S = 90.0


class AptInstaller:
    """Installs one package with apt-get, without starting its services.

    `is_there` says whether it need not. `folder` remembers an attempt that failed, so that only one run of the tests
    waits for it.
    """

    def __init__(
        self,
        package: str,
        is_there: Callable[[], bool],
        folder: Path = Path("/run/poorwill-tests"),
        timeout_s: float = INSTALL_TIMEOUT_S,
    ) -> None:
        self._package, self._is_there = package, is_there
        self._failed, self._lock = folder / f"{package}-failed", folder / "lock"
        self._timeout_s = timeout_s

    def obstacle(self) -> str:
        if os.geteuid() != 0:
            return "only root could install it"
        if shutil.which("apt-get") is None:
            return "there is no apt-get to install it"
        if Path("/run/systemd/system").exists():
            return f"installing it would change this whole machine: apt install {self._package}"
        if self._failed.exists():
            return f"installing it failed before: {self._failed.read_text()} (remove {self._failed} to try again)"
        return ""

    def install(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        self._lock.parent.mkdir(mode=0o700, exist_ok=True)
        with open(self._lock, "w") as lock:
            _locked(lock.fileno(), deadline)
            if self._is_there():
                return
            try:
                with _services_stay_down():
                    self._apt_get(["update"], deadline)
                    self._apt_get(["install", "-y", "--no-install-recommends", self._package], deadline)
            except OSError as error:
                self._failed.write_text(str(error))
                raise

    def _apt_get(self, arguments: list[str], deadline: float) -> None:
        command = ["apt-get", "-q", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20", *arguments]
        process = subprocess.Popen(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise OSError(f"apt-get {arguments[0]} took too long") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        if process.returncode != 0:
            end = said.decode(errors="replace").strip().splitlines()[-1:]
            raise OSError(f"apt-get {arguments[0]} failed: {' '.join(end)}")


def _locked(fd: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError("another run of the tests is installing it, for too long") from None
            time.sleep(0.1)


@contextlib.contextmanager
def _services_stay_down(policy: Path = Path("/usr/sbin/policy-rc.d")) -> Iterator[None]:
    """Within it, Debian's maintainer scripts start no service: see "policy-rc.d" in invoke-rc.d(8)."""
    try:
        fd = os.open(policy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:
        yield  # somebody else decides, in a container image mostly to the same end
        return
    try:
        with open(fd, "w") as file:
            file.write("#!/bin/sh\nexit 101\n")
        yield
    finally:
        policy.unlink()
