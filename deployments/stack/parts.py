"""The servers that the local stack consists of: how each is started, and whether it answers."""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

from deployments.servers import prefect_server, s3_server
from deployments.servers.daemon import Daemon
from deployments.servers.worker_process import worker_command
from deployments.stack.settings import BUCKET, StackSettings
from poorwill.engine.machine import nvidia_smi
from poorwill.errors import PoorwillError

NAMES = ("s3", "prefect", "worker", "api")
"""In the order in which they are started, which is not that in which they are ended."""
ANSWER_TIMEOUT_S = 5.0
_HEALTH = {"s3": "/", "prefect": "/api/health", "worker": "/health", "api": "/health"}
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Settings = dict[str, "str | None"]


def parts(settings: StackSettings) -> list[Daemon]:
    """Those that this configuration has, in the order of NAMES. PoorwillError if a program is missing."""
    makers = {"s3": _s3, "prefect": _prefect, "worker": _worker, "api": _api}
    return [makers[name](settings) for name in NAMES if name != "s3" or settings.own_store]


def left_running(folder: Path) -> list[Daemon]:
    """All that runs of a stack, whatever the configuration says now; in the order of NAMES."""
    return [part for part in (Daemon(folder, name) for name in NAMES) if part.running() is not None]


def health(part: str, address: str) -> str:
    """What it says of itself: `healthy`, or why not."""
    try:
        with _OPENER.open(f"http://{address}{_HEALTH[part]}", timeout=ANSWER_TIMEOUT_S) as answer:
            return _worker_health(answer.read(1 << 20)) if part == "worker" else "healthy"
    except urllib.error.HTTPError as error:
        if part == "s3" and error.code < 500:
            return "healthy"  # it answers, and lets nobody in without a signature
        return f"answers {error.code}"
    except (OSError, ValueError) as error:
        return f"no answer ({getattr(error, 'reason', error)})"[:100]


def client_settings(settings: StackSettings) -> Settings:
    """What makes Prefect's client of a process use this server, and nothing of the user's own profile."""
    return {
        "PREFECT_API_URL": settings.api_url,
        "PREFECT_API_AUTH_STRING": settings.auth or None,
        "PREFECT_API_KEY": None,
        "PREFECT_HOME": str(settings.folder / "prefect"),
        "PREFECT_PROFILE": None,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
    }


def store_settings(settings: StackSettings) -> Settings:
    """POORWILL_STORE and its keys, where the stack has a store of its own."""
    if not settings.own_store:
        return {}
    access_key, secret_key = settings.s3_keys()
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
    return settings.folder / "s3" / BUCKET


def _s3(settings: StackSettings) -> Daemon:
    address = settings.address("s3")
    try:
        command = s3_server.serve_command(bucket_folder(settings).parent, address)
    except s3_server.S3ServerError as error:
        raise PoorwillError(f"{error}; or set POORWILL_STORE to a bucket of yours") from None
    return Daemon(settings.folder, "s3", command, s3_server.serve_environment(*settings.s3_keys()), address)


def _prefect(settings: StackSettings) -> Daemon:
    folder = settings.folder / "prefect"
    told: Settings = {
        **_given(settings, "PREFECT_"),
        **client_settings(settings),
        "PREFECT_SERVER_API_AUTH_STRING": settings.auth or None,
        "PREFECT_UI_ENABLED": "true",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    defaults = {
        "PREFECT_UI_API_URL": settings.api_url,
        "PREFECT_UI_STATIC_DIRECTORY": str(folder / "ui"),
        # On disk and not in memory, or a restart of the server takes the slots of running flows away.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # Those that are needed are registered; all of Prefect's collections take ten seconds.
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }
    if not any(name.startswith(("PREFECT_API_DATABASE_", "PREFECT_SERVER_DATABASE_")) for name in settings.environment):
        defaults["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{folder / 'prefect.db'}"
    told.update({name: value for name, value in defaults.items() if name not in settings.environment})
    command = prefect_server.serve_command(settings.bind("prefect"), settings.ports["prefect"])
    return Daemon(settings.folder, "prefect", command, told, settings.address("prefect"))


def _worker(settings: StackSettings) -> Daemon:
    given = settings.environment
    told: Settings = {
        **_given(settings, "PREFECT_", "POORWILL_GPUS", "POORWILL_CPU_", "POORWILL_CONTROL_", "POORWILL_PRELOAD"),
        **client_settings(settings),
        "POORWILL_HEALTH": settings.address("worker"),
        "POORWILL_DRAIN_TIMEOUT_S": str(settings.drain_timeout_s),
        "POORWILL_STATE_DIR": given.get("POORWILL_STATE_DIR") or str(settings.folder / "state"),
        "POORWILL_SCRATCH_DIR": given.get("POORWILL_SCRATCH_DIR") or str(settings.folder / "scratch"),
    }
    if not (given.get("POORWILL_GPUS") or given.get("POORWILL_CPU_SLOTS")):
        if not nvidia_smi.gpu_uuids():
            told["POORWILL_CPU_SLOTS"] = "1"  # slow, and enough to try it
        elif not given.get("POORWILL_PRELOAD"):
            told["POORWILL_PRELOAD"] = "poorwill.media.loading,poorwill.media.inference"
    name = socket.gethostname().partition(".")[0] or "here"
    return Daemon(settings.folder, "worker", worker_command(name), told, settings.address("worker"))


def _api(settings: StackSettings) -> Daemon:
    told: Settings = {
        **_given(settings, "PREFECT_", "POORWILL_API_"),
        **client_settings(settings),
        "POORWILL_API_TOKENS_FILE": str(settings.token_file),
    }
    command = [sys.executable, "-m", "api", "--host", settings.bind("api"), "--port", str(settings.ports["api"])]
    return Daemon(settings.folder, "api", command, told, settings.address("api"))


def _given(settings: StackSettings, *prefixes: str) -> Settings:
    """What a part is told by the environment: named, so that a change is noticed."""
    own = {settings.port_variable(part) for part in NAMES}
    return {k: v for k, v in settings.environment.items() if k.startswith(prefixes) and k not in own}


def _worker_health(body: bytes) -> str:
    status = str(json.loads(body)["status"])
    return "healthy" if status in ("ready", "busy", "loading") else status
