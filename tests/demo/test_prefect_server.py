"""The Prefect server of the demo and the flow tests."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client

from deployments.servers.prefect_server import PrefectServer
from poorwill.errors import DeadlineExceeded, PoorwillError


def test_it_comes_back_after_a_crash(prefect_server: PrefectServer) -> None:
    """After SIGKILL the same port answers with what had been written before."""
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("kept", 3)
        before = prefect_server.api_url
        try:
            prefect_server.kill()
            assert prefect_server.pid is None
        finally:
            prefect_server.start()
        assert prefect_server.api_url == before
        assert client.read_global_concurrency_limit_by_name("kept").limit == 3
        client.delete_global_concurrency_limit_by_name("kept")


def test_stopping_it_ends_a_start_in_another_thread(tmp_path: Path) -> None:
    """No process is left, and the thread that starts it gets an error."""
    server, said = PrefectServer(tmp_path), list[str]()

    def start() -> None:
        try:
            server.start()
        except PoorwillError as error:
            said.append(str(error))

    starter = threading.Thread(target=start)
    starter.start()
    try:
        while server.pid is None:
            assert starter.is_alive()
        process = psutil.Process(server.pid)
    finally:
        server.stop()
        starter.join(30)
    assert said == ["the Prefect server was stopped before it had started"]
    assert not process.is_running()


def test_a_start_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """The wait is bounded, and the process is gone afterwards."""
    server = PrefectServer(tmp_path, start_timeout_s=0.3)
    with pytest.raises(DeadlineExceeded, match=r"did not answer on 127\.0\.0\.1:\d+ in 0\.3 s"):
        server.start()
    assert server.pid is None
    assert [p for p in psutil.process_iter(["cwd", "cmdline"]) if str(tmp_path) in str(p.info["cmdline"])] == []
