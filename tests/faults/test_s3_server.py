"""The S3 server of the demo and the tests: it starts, restarts, and never outlives its owner."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from deployments.servers.s3_server import S3Server, rclone_path
from poorwill.errors import PoorwillError, UsageError
from tests.support.s3_connection import connect

OWNER = """
import sys, threading
from deployments.servers.s3_server import S3Server
server = S3Server(sys.argv[1])
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
print(server.pid, flush=True)
threading.Event().wait()
"""


def test_restart_keeps_port_keys_and_objects(tmp_path: Path) -> None:
    """After stop and after SIGKILL the same store goes on with the same objects."""
    with S3Server(tmp_path / "s3") as server:
        endpoint, store = server.endpoint, connect(server)
        store.put("k", b"x")
        server.restart()
        assert store.get("k") == b"x"
        server.kill()
        assert server.pid is None
        server.start()
        assert store.get("k") == b"x"
        assert server.endpoint == endpoint
    assert server.pid is None


def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The parent-death signal counts threads, the server must not."""
    server = S3Server(tmp_path / "s3")
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join(60)
    try:
        connect(server).put("k", b"x")
        assert connect(server).get("k") == b"x"
    finally:
        server.stop()


def test_it_dies_with_its_owner(tmp_path: Path) -> None:
    """SIGKILL of the process that started it ends the server too."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "s3")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert owner.stdout is not None
        server = psutil.Process(int(owner.stdout.readline()))
        assert server.is_running() and "rclone" in server.exe()
        owner.kill()
        owner.wait(30)
        server.wait(30)
        assert not server.is_running()
    finally:
        owner.kill()
        owner.wait(30)


def test_secrets_are_not_in_its_arguments(tmp_path: Path) -> None:
    """Arguments are visible to every user of the machine."""
    with S3Server(tmp_path / "s3") as server:
        arguments = " ".join(psutil.Process(server.pid).cmdline())
        assert server.secret_key not in arguments and server.access_key not in arguments
        assert server.secret_key not in server.log_path.read_text()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """Asked for by number it is an error that names the port, and the server that has it goes on."""
    with S3Server(tmp_path / "one") as first:
        with pytest.raises(UsageError, match="already running"):
            first.start()
        port = int(first.endpoint.rpartition(":")[2])
        second = S3Server(tmp_path / "two", port=port)
        began = time.monotonic()
        with pytest.raises(PoorwillError, match=f"port {port} of 127.0.0.1 is in use"):
            second.start()
        assert time.monotonic() - began < 15
        connect(first).put("k", b"x")


def test_env_is_what_a_client_needs(tmp_path: Path) -> None:
    """A process with nothing but these variables reaches the server."""
    with S3Server(tmp_path / "s3") as server:
        code = "from poorwill.store.address import open_store as o; o('s3://poorwill/e').put('k', b'x')"
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PATH": os.defpath, **server.env()},
            cwd=Path(__file__).parents[2],
            timeout=60,
            check=True,
        )
        assert (server.root / "poorwill/e/k").read_bytes() == b"x"
    assert rclone_path().is_file()
