"""The servers that the local stack consists of: how each is started, and whether it answers."""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.error
from pathlib import Path

from deployments.servers import loopback, prefect_server, s3_server
from deployments.servers.daemon import Daemon
from deployments.servers.worker_process import worker_command
from deployments.stack.secret_files import s3_keys
from deployments.stack.settings import PARTS, StackSettings
from poorwill.engine.machine import nvidia_smi
from poorwill.errors import PoorwillError

BUCKET = "poorwill"
ANSWER_TIMEOUT_S = 5.0
_HEALTH = {"s3": "/", "prefect": "/api/health", "worker": "/health", "api": "/health"}
_WORKER_IS_HEALTHY = ("ready", "busy", "loading")

Variables = dict[str, str | None]
"""Of a part's environment, beside this process's own; None takes one away."""


def parts(settings: StackSettings) -> list[Daemon]:
    """Those that this configuration has, in the order of PARTS. PoorwillError if a program is missing."""
    makers = {"s3": _s3, "prefect": _prefect, "worker": _worker, "api": _api}
    return [makers[name](settings) for name in PARTS if name != "s3" or settings.own_store]


def left_running(folder: Path) -> list[Daemon]:
    """All that runs of a stack, whatever the configuration says now; in the order of PARTS."""
    return [part for part in (Daemon(folder, name) for name in PARTS) if part.running() is not None]


def health(part: str, address: str) -> str:
    """What it says of itself: `healthy`, or why not."""
    try:
        with loopback.get(f"http://{address}{_HEALTH[part]}", ANSWER_TIMEOUT_S) as answer:
            if part != "worker":
                return "healthy"
            status = str(json.loads(answer.read(1 << 20))["status"])
            return "healthy" if status in _WORKER_IS_HEALTHY else status
    except urllib.error.HTTPError as error:
        if part == "s3" and error.code < 500:
            return "healthy"  # it answers, and lets nobody in without a signature
        return f"answers {error.code}"
    except (OSError, ValueError) as error:
        return f"no answer ({getattr(error, 'reason', error)})"[:100]


def client_variables(settings: StackSettings) -> Variables:
    """What makes Prefect's client of a process use this server, and nothing of the user's own profile."""
    return {
        **prefect_server.client_environment(settings.api_url, settings.stack_dir / "prefect"),
        "PREFECT_API_AUTH_STRING": settings.auth or None,
        "PREFECT_API_KEY": None,
        "PREFECT_PROFILE": None,
    }


def store_variables(settings: StackSettings) -> Variables:
    """POORWILL_STORE and its keys, where the stack has a store of its own."""
    if not settings.own_store:
        return {}
    access_key, secret_key = s3_keys(settings.stack_dir)
    endpoint = f"http://{settings.address('s3')}"
    return {
        "POORWILL_STORE": f"s3://{BUCKET}",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_SESSION_TOKEN": None,
        "AWS_REGION": "us-east-1",
    }


def bucket_folder(settings: StackSettings) -> Path:
    """Where the stack's own store keeps its objects."""
    return settings.stack_dir / "s3" / BUCKET


def _s3(settings: StackSettings) -> Daemon:
    address = settings.address("s3")
    try:
        command = s3_server.serve_command(bucket_folder(settings).parent, address)
    except PoorwillError as error:
        raise PoorwillError(f"{error.message}; or set POORWILL_STORE to a bucket of yours") from None
    variables = s3_server.serve_environment(*s3_keys(settings.stack_dir))
    return Daemon(settings.stack_dir, "s3", command, variables, address)


def _prefect(settings: StackSettings) -> Daemon:
    given, home = _given("PREFECT_"), settings.stack_dir / "prefect"
    defaults = {
        **prefect_server.server_environment(settings.api_url, home),
        # On disk and not in memory, or a restart of the server takes the slots of running flows away.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    if not any(name.startswith(("PREFECT_API_DATABASE_", "PREFECT_SERVER_DATABASE_")) for name in given):
        defaults["PREFECT_API_DATABASE_CONNECTION_URL"] = prefect_server.sqlite_url(home)
    variables = {
        **defaults,
        **given,
        **client_variables(settings),
        "PREFECT_SERVER_API_AUTH_STRING": settings.auth or None,
        "PREFECT_UI_ENABLED": "true",
    }
    command = prefect_server.serve_command(settings.host("prefect"), settings.prefect_port)
    return Daemon(settings.stack_dir, "prefect", command, variables, settings.address("prefect"))


def _worker(settings: StackSettings) -> Daemon:
    given = _given("PREFECT_", "POORWILL_GPUS", "POORWILL_CPU_", "POORWILL_CONTROL_", "POORWILL_PRELOAD")
    variables: Variables = {
        **given,
        **client_variables(settings),
        "POORWILL_HEALTH": settings.address("worker"),
        "POORWILL_DRAIN_TIMEOUT_S": str(settings.drain_timeout_s),
        "POORWILL_STATE_DIR": os.environ.get("POORWILL_STATE_DIR") or str(settings.stack_dir / "state"),
        "POORWILL_SCRATCH_DIR": os.environ.get("POORWILL_SCRATCH_DIR") or str(settings.stack_dir / "scratch"),
    }
    if not (given.get("POORWILL_GPUS") or given.get("POORWILL_CPU_SLOTS")):
        if not nvidia_smi.gpu_uuids():
            variables["POORWILL_CPU_SLOTS"] = "1"  # slow, and enough to try it
        elif not given.get("POORWILL_PRELOAD"):
            variables["POORWILL_PRELOAD"] = "poorwill.media.loading,poorwill.media.inference"
    name = socket.gethostname().partition(".")[0] or "here"
    return Daemon(settings.stack_dir, "worker", worker_command(name), variables, settings.address("worker"))


def _api(settings: StackSettings) -> Daemon:
    variables: Variables = {
        **_given("PREFECT_", "POORWILL_API_"),
        **client_variables(settings),
        "POORWILL_API_TOKENS_FILE": str(settings.token_file),
    }
    command = [sys.executable, "-m", "api", "--host", settings.host("api"), "--port", str(settings.api_port)]
    return Daemon(settings.stack_dir, "api", command, variables, settings.address("api"))


def _given(*prefixes: str) -> dict[str, str]:
    """The variables of this process that a part reads: named, so that a change of one is noticed."""
    ports = {StackSettings.port_variable(part) for part in PARTS}
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes) and name not in ports}
