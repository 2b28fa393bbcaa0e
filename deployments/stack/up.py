"""Starts the parts of the local stack that are missing, and has everything registered."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from deployments.catalogue import installed
from deployments.servers import child_process
from deployments.servers.daemon import Daemon
from deployments.stack import parts as stack_parts
from deployments.stack.settings import StackSettings
from poorwill.errors import DeadlineExceeded, PoorwillError, Refused

START_TIMEOUT_S = 180.0
"""Ten seconds on an idle machine, much more on a busy one."""
BUILD_TIMEOUT_S = 300.0
_POLL_S = 0.1
Say = Callable[[str], None]


def up(settings: StackSettings, say: Say) -> None:
    """Idempotent, also after a part was killed. `say` is told each thing that changed. PoorwillError, OSError."""
    settings.make_secrets()
    parts = stack_parts.parts(settings)
    missing = [part for part in parts if part.running() is None]
    if outdated := [part.name for part in parts if part.is_outdated()]:
        raise Refused(f"{', '.join(outdated)}: started with other settings than these: `poorwill down`, then `up`")
    _check_ports(settings, missing)
    if settings.own_store:
        stack_parts.bucket_folder(settings).mkdir(parents=True, exist_ok=True, mode=0o700)
    changes = 0

    def changed(line: str) -> None:
        nonlocal changes
        changes += not line.startswith("!")
        say(f"  {line}" if line.startswith("!") else f"  + {line}")

    # The worker needs the pool that is registered; all else is started at once, since each takes seconds.
    model = _StandIn(settings)
    last = [part for part in missing if part.name == "worker"]
    first = [part for part in missing if part not in last]
    _start(first)
    model.build()
    registering = _register(settings, model)
    try:
        _wait(first, changed)
        model.wait(changed)
        _told(registering, changed)
    finally:
        registering.kill()
        registering.wait()
        model.stop()
    _start(last)
    _wait(last, changed)
    settings.write_stack_file()
    _summary(settings, model, changes, say)


def _check_ports(settings: StackSettings, missing: list[Daemon]) -> None:
    for part in missing:
        host, port = settings.bind(part.name), settings.ports[part.name]
        if not child_process.port_is_free(port, host):
            raise Refused(
                f"port {port} of {host}, which {part.name} needs, is in use: end what uses it, or set "
                f"{settings.port_variable(part.name)} to another"
            )


def _start(parts: list[Daemon]) -> None:
    for part in parts:
        part.start()


def _wait(parts: list[Daemon], changed: Say) -> None:
    for part in parts:
        _until_healthy(part)
        running = part.running()
        changed(f"{part.name} at {part.address}, process {running.pid if running else '?'}")


def _until_healthy(part: Daemon) -> None:
    ends_s = time.monotonic() + START_TIMEOUT_S
    while (health := _health(part)) != "healthy":
        if part.running() is None:
            raise part.failed("did not start")
        if time.monotonic() > ends_s:
            raise DeadlineExceeded(f"{part.name} is not healthy in {START_TIMEOUT_S:.0f} s: {health} ({part.log_path})")
        time.sleep(_POLL_S)
    if part.running() is None:  # somebody else has answered
        raise part.failed("did not start")


def _health(part: Daemon) -> str:
    if part.name == "worker" and not part.has_said(b"started!"):
        return "it has not reached its server"  # which its own health tells only after a while
    return stack_parts.health(part.name, part.address)


def _register(settings: StackSettings, model: _StandIn) -> subprocess.Popen[str]:
    """In a process of its own, with this stack's settings alone; it waits for the server by itself."""
    told = {
        **os.environ,
        **stack_parts.client_settings(settings),
        **stack_parts.store_settings(settings),
        **model.settings(),
        "POORWILL_LOCAL_MACHINES": str(settings.folder / "machines"),
        "POORWILL_WEBHOOK_SECRET_FILE": settings.environment.get("POORWILL_WEBHOOK_SECRET_FILE", "").strip()
        or str(settings.webhook_secret_file),
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    if own := settings.environment.get("POORWILL_AUTOMATIONS", "").strip():
        told["POORWILL_AUTOMATIONS"] = str(Path(own).expanduser().absolute())
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.registration", "--wait", str(int(START_TIMEOUT_S)), "--lines"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in told.items() if value is not None},
        cwd=settings.folder / "run",
    )


def _told(registering: subprocess.Popen[str], changed: Say) -> None:
    """Tell what it made, once it has ended."""
    try:
        said, wrong = registering.communicate(timeout=2 * START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(f"the deployments were not registered in {2 * START_TIMEOUT_S:.0f} s") from None
    for line in said.splitlines():
        changed(line)
    if registering.returncode:
        last = wrong.strip().splitlines()[-1:] or [f"it ended with {registering.returncode}"]
        raise PoorwillError(f"the deployments could not be registered: {last[0].removeprefix('registration: ')}")


class _StandIn:
    """A tiny model of random weights, for as long as no real one is configured. Built once, in another process:
    importing torch takes seconds, and much memory."""

    def __init__(self, settings: StackSettings) -> None:
        self.folder = settings.folder / "model"
        can_generate = importlib.util.find_spec("diffusers") is not None
        self.wanted = can_generate and not settings.environment.get("POORWILL_MODEL_PIPELINE")
        self._building: subprocess.Popen[bytes] | None = None
        self._draft: Path | None = None

    def settings(self) -> dict[str, str]:
        return {"POORWILL_MODEL_STAND_IN": str(self.folder)} if self.wanted or self.folder.is_dir() else {}

    def build(self) -> None:
        if not self.wanted or self.folder.is_dir():
            return
        (self.folder.parent / "logs").mkdir(exist_ok=True, mode=0o700)
        self._draft = Path(tempfile.mkdtemp(prefix=".model-", dir=self.folder.parent))
        command = [sys.executable, "-m", "deployments.demo.tiny_models", "skyreels", str(self._draft)]
        self._building = child_process.start(
            command, environment=os.environ, log_path=self.folder.parent / "logs" / "model.log", name="model"
        )

    def wait(self, changed: Say) -> None:
        """PoorwillError if it could not be built."""
        if self._building is None or self._draft is None:
            return
        try:
            status = self._building.wait(BUILD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = -1
        if status:
            end = child_process.last_line(self.folder.parent / "logs" / "model.log")
            raise PoorwillError(f"the stand-in for a video model could not be built: {end[:300]}")
        self._draft.chmod(0o755)
        self._draft.rename(self.folder)
        changed(f"a stand-in for a video model in {self.folder}")

    def stop(self) -> None:
        if self._building is not None:
            self._building.kill()
            self._building.wait()
        if self._draft is not None:
            shutil.rmtree(self._draft, ignore_errors=True)


def _summary(settings: StackSettings, model: _StandIn, changes: int, say: Say) -> None:
    count = len(installed())
    say("everything runs already: nothing was changed" if not changes else f"{count} flows are deployed")
    say(f"Prefect UI    http://{settings.address('prefect')}" + (" (with the password)" if settings.auth else ""))
    say(f"HTTP API      http://{settings.address('api')}, token in {settings.token_file}")
    say(f"state, logs   {settings.folder}")
    if model.wanted:
        say("model video   a stand-in with random weights, which shows noise: set POORWILL_MODEL_PIPELINE and _SOURCE")
