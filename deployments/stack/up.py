"""Starts the parts of the local stack that are missing, and has everything registered."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from deployments.catalogue import CATALOGUE
from deployments.servers.daemon import Daemon
from deployments.servers.loopback import port_is_free
from deployments.servers.tiny_model_build import TinyModelBuild
from deployments.servers.worker_process import STARTED
from deployments.stack import parts as stack_parts
from deployments.stack import secret_files
from deployments.stack.settings import StackSettings
from poorwill.errors import DeadlineExceeded, PoorwillError, Refused

START_TIMEOUT_S = 180.0
"""Ten seconds on an idle machine, much more on a busy one."""
MODEL = "model"
_POLL_S = 0.1
Say = Callable[[str], None]


def up(settings: StackSettings, say: Say) -> None:
    """Idempotent, also after a part was killed. `say` gets a line for each change. PoorwillError, OSError."""
    secret_files.make_secrets(settings)
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
    worker = [part for part in missing if part.name == "worker"]
    others = [part for part in missing if part.name != "worker"]
    for part in others:
        part.start()
    with ExitStack() as running:
        model = _begin_stand_in(settings, running)
        registration = _begin_registration(settings, running)
        _wait_until_healthy(others, changed)
        if model is not None:
            model.wait()
            changed(f"a stand-in for a video model in {model.folder}")
        _finish(registration, changed)
    for part in worker:
        part.start()
    _wait_until_healthy(worker, changed)
    secret_files.write_stack_file(settings)
    _summary(settings, changes, say)


def _check_ports(settings: StackSettings, missing: list[Daemon]) -> None:
    for part in missing:
        host, port = settings.host(part.name), settings.port(part.name)
        if not port_is_free(port, host):
            raise Refused(
                f"port {port} of {host}, which {part.name} needs, is in use: end what uses it, or set "
                f"{settings.port_variable(part.name)} to another"
            )


def _wait_until_healthy(parts: list[Daemon], changed: Say) -> None:
    for part in parts:
        ends_s = time.monotonic() + START_TIMEOUT_S
        while (health := _health(part)) != "healthy" and part.running() is not None:
            if time.monotonic() > ends_s:
                raise DeadlineExceeded(
                    f"{part.name} is not healthy in {START_TIMEOUT_S:.0f} s: {health} ({part.log_path})"
                )
            time.sleep(_POLL_S)
        # If it is gone, another server has answered on its port.
        if (running := part.running()) is None:
            raise part.failed("did not start")
        changed(f"{part.name} at {part.address}, process {running.pid}")


def _health(part: Daemon) -> str:
    if part.name == "worker" and not part.has_logged(STARTED):
        return "it has not reached its server"  # which its own health tells only after a while
    return stack_parts.health(part.name, part.address)


def _stand_in_is_wanted(settings: StackSettings) -> bool:
    """A tiny model of random weights, for as long as no real one is configured."""
    return importlib.util.find_spec("diffusers") is not None and not settings.model_pipeline


def _begin_stand_in(settings: StackSettings, running: ExitStack) -> TinyModelBuild | None:
    """It is built once; None if it is there, or not wanted."""
    folder = settings.stack_dir / MODEL
    if folder.is_dir() or not _stand_in_is_wanted(settings):
        return None
    build = TinyModelBuild(folder, settings.stack_dir / "logs" / "model.log")
    running.callback(build.stop)
    return build


def _begin_registration(settings: StackSettings, running: ExitStack) -> subprocess.Popen[str]:
    """In a process of its own, with this stack's settings alone; it waits for the server by itself."""
    secret = settings.webhook_secret_file or settings.stack_dir / secret_files.WEBHOOK_SECRET
    variables = {
        **os.environ,
        **stack_parts.client_variables(settings),
        **stack_parts.store_variables(settings),
        "POORWILL_LOCAL_MACHINES": str(settings.stack_dir / "machines"),
        "POORWILL_WEBHOOK_SECRET_FILE": str(secret),
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    model = settings.stack_dir / MODEL
    if model.is_dir() or _stand_in_is_wanted(settings):
        variables["POORWILL_MODEL_STAND_IN"] = str(model)
    if settings.automations is not None:
        variables["POORWILL_AUTOMATIONS"] = str(settings.automations)
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.registration", "--wait", str(int(START_TIMEOUT_S)), "--lines"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in variables.items() if value is not None},
        cwd=settings.stack_dir / "run",
    )
    running.callback(process.wait)
    running.callback(process.kill)
    return process


def _finish(registration: subprocess.Popen[str], changed: Say) -> None:
    """Wait for the registration, and say what it has made."""
    try:
        made, errors = registration.communicate(timeout=2 * START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(f"the deployments were not registered in {2 * START_TIMEOUT_S:.0f} s") from None
    for line in made.splitlines():
        changed(line)
    if registration.returncode:
        last = errors.strip().splitlines()[-1:] or [f"it ended with {registration.returncode}"]
        raise PoorwillError(f"the deployments could not be registered: {last[0].removeprefix('registration: ')}")


def _summary(settings: StackSettings, changes: int, say: Say) -> None:
    say(f"{len(CATALOGUE)} flows are deployed" if changes else "everything runs already: nothing was changed")
    say(f"Prefect UI    http://{settings.address('prefect')}" + (" (with the password)" if settings.auth else ""))
    say(f"HTTP API      http://{settings.address('api')}, token in {settings.token_file}")
    say(f"state, logs   {settings.stack_dir}")
    if _stand_in_is_wanted(settings):
        say("model video   a stand-in with random weights, which shows noise: set POORWILL_MODEL_PIPELINE and _SOURCE")
