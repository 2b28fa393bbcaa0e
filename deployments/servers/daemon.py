"""A server process that outlives the shell that started it, and is found again by its pid file.

The pid file holds the process's start time beside its number: when the system has given that number to another
process, that one is not taken for the server, and never killed. The process writes the file itself before it becomes
the server, so that no server is without its file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.servers.child_process import last_line
from poorwill.errors import PoorwillError
from poorwill.retry import polls

LOG_BYTES_MAX = 20_000_000
"""A longer log is put aside when the process is started again; the one before it is removed."""
START_TIMEOUT_S = 10.0
"""Until its pid file is there."""
KILL_TIMEOUT_S = 10.0
PS_TIMEOUT_S = 10.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Running:
    """`address` is where it answers, `settings` a digest of its command and variables."""

    pid: int
    address: str
    settings: str


class Daemon:
    """One server of the folder: `run/<name>.json` is its pid file, `logs/<name>.log` its log.

    settings: its variables beside the rest of the environment, None to take one away; their digest says whether a
    running one has the same. Without a command it can be found and ended, and not started.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        command: Sequence[str] = (),
        settings: Mapping[str, str | None] | None = None,
        address: str = "",
    ) -> None:
        self.name, self.address = name, address
        self.log_path = folder / "logs" / f"{name}.log"
        self._file = folder / "run" / f"{name}.json"
        self._command, self._settings = list(command), dict(settings or {})
        self._log_before = 0

    def running(self) -> Running | None:
        """The process, if it is there; None also where another one has its number now."""
        try:
            found = json.loads(self._file.read_bytes())
            pid, began = int(found["pid"]), str(found["began"])
            running = Running(pid, str(found["address"]), str(found["settings"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return running if start_time(pid) == began else None

    def is_outdated(self) -> bool:
        """Whether it runs with other settings than this one says."""
        found = self.running()
        return found is not None and found.settings != self._digest()

    def start(self) -> None:
        """Start it, unless it runs. Returns once it has begun, which does not mean that it answers. OSError."""
        if self.running() is not None:
            return
        for path in (self._file, self.log_path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file.unlink(missing_ok=True)
        self._put_long_log_aside()
        self._log_before = self.log_path.stat().st_size if self.log_path.exists() else 0
        environment = {**os.environ, **self._settings}
        arguments = [str(self._file), self.address, self._digest()]
        with open(os.open(self.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deployments.servers.daemon", *arguments, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in environment.items() if value is not None},
                # Not where the user happens to be: that comes first on the path of modules, and stays in use.
                cwd=self._file.parent,
                start_new_session=True,
            )
        for _ in polls(_POLL_S, START_TIMEOUT_S):
            if self.running() is not None:
                return
            if process.poll() is not None:
                break
        raise self.failed("ended at once")

    def has_logged(self, text: bytes) -> bool:
        """Whether its log has that text, since it was started here."""
        with open(self.log_path, "rb") as log:
            log.seek(self._log_before)
            return text in log.read(LOG_BYTES_MAX)

    def failed(self, how: str) -> PoorwillError:
        """The error that says how it ended, with the end of its log."""
        return PoorwillError(f"{self.name} {how}: {last_line(self.log_path)[:300]} (its log is {self.log_path})")

    def signal(self, how: signal.Signals) -> bool:
        """Send it. False if the process is not there."""
        found = self.running()
        if found is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, how)
        return True

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within that time."""
        return any(self.running() is None for _ in polls(_POLL_S, timeout_s))

    def kill(self) -> None:
        """SIGKILL, and wait. PoorwillError if it stays. Idempotent."""
        self.signal(signal.SIGKILL)
        if not self.wait(KILL_TIMEOUT_S):
            raise self.failed(f"cannot be ended, even by SIGKILL to process {self._file.read_text().strip()[:100]}")
        self._file.unlink(missing_ok=True)

    def _digest(self) -> str:
        text = json.dumps([self._command, sorted(self._settings.items())])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def _put_long_log_aside(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log_path.stat().st_size > LOG_BYTES_MAX:
                self.log_path.replace(self.log_path.with_suffix(".log.1"))


def start_time(pid: int) -> str | None:
    """When a process began, as its system says it; None for one that has ended, or does not exist."""
    if sys.platform != "linux":
        return _start_time_by_ps(pid)
    try:
        # The name in parentheses may hold anything; what follows it is state, then 18 fields, then the start time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    return None if fields[0] in "ZX" else f"{_boot()} {fields[19]}"


def _boot() -> str:
    """Start times count from the boot, so they come again after the next one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_time_by_ps(pid: int) -> str | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=PS_TIMEOUT_S).stdout.split(maxsplit=1)
    return printed[1].strip() if len(printed) == 2 and not printed[0].startswith("Z") else None


def _become(pid_file: str, address: str, settings: str, command: list[str]) -> None:
    """Write the pid file, whole or not at all, and turn into the server."""
    pid = os.getpid()
    running = {"pid": pid, "began": start_time(pid), "address": address, "settings": settings}
    draft = Path(f"{pid_file}.{pid}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(running, file)
    draft.replace(pid_file)
    os.execv(command[0], command)


if __name__ == "__main__":
    _become(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
