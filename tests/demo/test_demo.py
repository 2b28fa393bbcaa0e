"""The demo, as a person runs it: a process with a terminal or without, real servers, real flows."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from deployments.demo.run import compared
from deployments.demo.tree_listing import list_tree
from poorwill.media import video

DEMO = [sys.executable, "-u", "-m", "deployments.demo"]
REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 200.0


def run(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, "--megabytes", "20", "--directory", str(directory), *options],
        cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=TIMEOUT_S,
    )  # fmt: skip


@pytest.mark.timeout(TIMEOUT_S + 10)
def test_there_and_back(tmp_path: Path) -> None:
    """Exit code 0, every stage in the table, a video, and nothing else is left: no process, no scratch directory."""
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "is gone: the provider has no machines" in done.stdout
    for stage in ("scan", "pack", "settle", "metadata", "verify", "destroy", "provision", "restore", "finish"):
        assert re.search(rf"^{stage} .*\d\.\d\d", done.stdout, re.MULTILINE), f"{stage} is not in\n{done.stdout}"
    assert re.search(r"ratio .* 1\.3\d\d", done.stdout)
    assert re.search(r"The two workspaces are equal: \d+ entries", done.stdout)
    assert "Traceback" not in done.stdout
    assert sorted(os.listdir(tmp_path)) == ["demo-contact-sheet.jpg", "demo-video.mp4", "demo.log"]
    assert video.probe(tmp_path / "demo-video.mp4").frames == 9
    assert re.search(r"its URL +http://127\.0\.0\.1:\d+/poorwill/demo/videos/\S+/video\.mp4\?", done.stdout)
    assert _processes_below(tmp_path) == []


def test_a_difference_is_a_failure(tmp_path: Path) -> None:
    """Exit code 1, and the difference is named, when the woken workspace is not the one that was put to sleep."""
    (tmp_path / "file").write_bytes(b"before")
    before, said = list_tree(tmp_path), io.StringIO()
    assert compared(Console(file=said), before, list_tree(tmp_path)) == 0
    (tmp_path / "file").write_bytes(b"behind")
    assert compared(Console(file=said), before, list_tree(tmp_path)) == 1
    assert "'file': content" in said.getvalue()


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """The user gets one line that says what to do, and no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(tmp_path, "--port", str(port))
    assert done.returncode == 1
    assert f"demo: port {port} of 127.0.0.1 is in use" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_leaves_nothing(how: signal.Signals, tmp_path: Path) -> None:
    """A signal while the servers start: exit code 130, and no server and no file of the workspace remains."""
    command = [*DEMO, "--megabytes", "20", "--directory", str(tmp_path)]
    demo = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        assert demo.stdout is not None
        assert "has a workspace" in demo.stdout.readline()
        started = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(how)
        said, _ = demo.communicate(timeout=TIMEOUT_S)
    finally:
        demo.kill()
        demo.wait(10)
    assert demo.returncode == 130, said
    assert "Traceback" not in said
    assert len(started) >= 2
    assert psutil.wait_procs(started, timeout=10)[1] == []
    assert os.listdir(tmp_path) == ["demo.log"]


def _processes_below(directory: Path) -> list[str]:
    """Command lines of processes that work in `directory`."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue  # it has just ended, or is another user's
        if any(str(directory) in word for word in words):
            found.append(" ".join(process.cmdline()))
    return found
