"""An operator's command on a machine, and the GPUs that nvidia-smi lists."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.machine.nvidia_smi import gpu_uuids, gpus_and_driver
from poorwill.errors import DeadlineExceeded, EngineFailed, UsageError
from poorwill.remote.local_host import LocalHost


@pytest.fixture(scope="module")
def session() -> Iterator[EngineSession]:
    os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["SOME_TOKEN"] = "hush", "hush"
    try:
        opened = EngineSession(LocalHost({"GIVEN": "given"}))
    finally:
        del os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["SOME_TOKEN"]
    yield opened
    opened.close()


def test_output_status_and_environment_of_a_command(session: EngineSession, tmp_path: Path) -> None:
    """Output comes back, the status counts, and the environment holds nothing of the control side's."""
    said = session.command('pwd; echo "$GIVEN/$AWS_SECRET_ACCESS_KEY/$SOME_TOKEN/"', str(tmp_path), 20)
    assert said == f"{tmp_path}\ngiven///"
    with pytest.raises(EngineFailed, match="status 7: why"):
        session.command("echo why; exit 7", str(tmp_path), 20)
    with pytest.raises(UsageError, match="no command can be run in"):
        session.command("true", str(tmp_path / "none"), 20)


def test_the_umask_of_a_command(session: EngineSession, tmp_path: Path) -> None:
    """It is that with which the engine was started, whose own is 0."""
    umask = os.umask(0o027)
    os.umask(umask)
    assert int(session.command("umask", str(tmp_path), 20), 8) == umask


def test_a_command_that_starts_a_service(session: EngineSession, tmp_path: Path) -> None:
    """The service keeps the output open in the background, and is not waited for."""
    began = time.monotonic()
    session.command("sleep 60 & echo $! > pid", str(tmp_path), 50)
    assert time.monotonic() - began < 30
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_a_command_that_takes_too_long(session: EngineSession, tmp_path: Path) -> None:
    """It is killed, with its children, when its time is up."""
    with pytest.raises(DeadlineExceeded):
        session.command("sleep 60 & echo $! > pid; wait", str(tmp_path), 0.3)
    child = int((tmp_path / "pid").read_text())
    ends = time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < ends, "the child of a command that was killed goes on"


def test_the_output_of_a_command_is_bounded(session: EngineSession, tmp_path: Path) -> None:
    """The end of a long output is kept."""
    said = session.command("yes | head -c 1000000; echo end", str(tmp_path), 20)
    assert len(said) <= 16 << 10 and said.endswith("end")


def test_gpus_and_their_driver_are_read(tmp_path: Path) -> None:
    """Names and memory as nvidia-smi prints them; a machine without it, or with a broken one, has no GPUs."""
    assert gpus_and_driver(str(tmp_path)) == ([], "")
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.124.06'\necho 'NVIDIA H200, 143771 MiB, 570.124.06'\n"
    )
    program.chmod(0o755)
    assert gpus_and_driver(str(tmp_path)) == (["NVIDIA H200, 143771 MiB"] * 2, "570.124.06")
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert gpus_and_driver(str(tmp_path)) == ([], "")
    assert gpu_uuids(str(tmp_path)) == ()
    program.write_text("#!/bin/sh\necho GPU-1; echo; echo 'No devices were found'; echo GPU-2\n")
    assert gpu_uuids(str(tmp_path)) == ("GPU-1", "GPU-2")
