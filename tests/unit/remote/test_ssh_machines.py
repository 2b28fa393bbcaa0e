"""The machines that tests rent: both kinds of SSH server do what tests rely on, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import paramiko
import psutil
import pytest

from tests.support.apt import AptInstaller
from tests.support.ssh_machines import KeyPair, SshMachine
from tests.support.sshd_software import Software, choose, find

TIMEOUT_S = 20.0
EMBEDDED = Software(None, why="asked for by a test")
# A daemon as keepers are: in a session of its own, with streams of its own, and no environment.
DAEMON = "setsid env -i sh -c 'echo $$ > daemon.pid; exec sleep 1000' < /dev/null > /dev/null 2>&1 &"


class NoInstaller:
    def obstacle(self) -> str:
        return "this test forbids it"

    def install(self) -> None:
        raise AssertionError("installed all the same")


@pytest.fixture(scope="module", params=["found", "embedded"])
def machine(
    request: pytest.FixtureRequest,
    sshd_software: Software,
    ssh_keys: KeyPair,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SshMachine]:
    """One of each kind for all tests here: whatever they count or change, they leave it in order."""
    software = sshd_software if request.param == "found" else EMBEDDED
    environment = {"OTHER": "two words"}
    folder = tmp_path_factory.mktemp("machine")
    with SshMachine(folder, software, authorized=[ssh_keys.public], environment=environment, sessions_max=2) as found:
        yield found


class Client(paramiko.SSHClient):
    """Logs in, and trusts that host key alone."""

    def __init__(self, machine: SshMachine, keys: KeyPair, host_key: str = "") -> None:
        super().__init__()
        line = f"[{machine.host}]:{machine.port} {host_key or machine.host_key}"
        entry = paramiko.hostkeys.HostKeyEntry.from_line(line)
        assert entry is not None and entry.key is not None
        self.get_host_keys().add(entry.hostnames[0], "ssh-ed25519", entry.key)
        own = paramiko.Ed25519Key.from_private_key(StringIO(keys.private))
        self.connect(machine.host, machine.port, machine.user, pkey=own, timeout=TIMEOUT_S,
                     allow_agent=False, look_for_keys=False)  # fmt: skip

    def run(self, command: str, given: bytes = b"") -> tuple[int, bytes, bytes]:
        stdin, stdout, stderr = self.exec_command(command, timeout=TIMEOUT_S)
        stdin.write(given)
        stdin.channel.shutdown_write()
        said = stdout.read(), stderr.read()
        return stdout.channel.recv_exit_status(), *said


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_session_runs_in_the_machines_home(machine: SshMachine, ssh_keys: KeyPair) -> None:
    """Folder and $HOME are the machine's, the tests' environment is not passed on; bytes and exit codes are."""
    noise, opened = bytes(range(256)) * 4000, machine.sessions_opened()
    with Client(machine, ssh_keys) as client:
        status, out, err = client.run('pwd; echo "$HOME|$OTHER|$USER|$POORWILL_STATE_DIR"; echo no >&2; exit 7')
        shown = f"{machine.home}\n{machine.home}|two words|{machine.user}|\n"
        assert (status, out.decode(), err) == (7, shown, b"no\n")
        assert client.run("cat", noise) == (0, noise, b"")
    assert machine.sessions_opened() == opened + 2


def test_sessions_are_limited_and_counted(machine: SshMachine, ssh_keys: KeyPair) -> None:
    """For each connection; refused ones are not counted, and only known keys are accepted."""
    until(lambda: machine.connections() == 0)
    opened = machine.sessions_opened()
    with Client(machine, ssh_keys) as client, Client(machine, ssh_keys) as other:
        held = [client.exec_command("cat") for _ in range(2)]
        with pytest.raises(paramiko.ChannelException):
            client.exec_command("true")
        assert other.run("true")[0] == 0 and len(held) == 2
        assert (machine.connections(), machine.sessions_opened()) == (2, opened + 3)
    until(lambda: machine.connections() == 0)
    stranger = KeyPair.generate()
    with pytest.raises(paramiko.AuthenticationException):
        Client(machine, stranger)
    machine.authorize(stranger.public)
    with Client(machine, stranger) as client:
        assert client.run("true")[0] == 0
    assert stranger.private.splitlines()[1] not in repr(stranger)


def test_a_cut_leaves_the_machine_and_its_daemons(machine: SshMachine, ssh_keys: KeyPair) -> None:
    """Client and command notice it, the next login works, a daemon lives on until the machine is stopped."""
    with Client(machine, ssh_keys) as client:
        client.run(DAEMON)
        pid_file = machine.home / "daemon.pid"
        until(lambda: pid_file.exists() and pid_file.read_text())
        daemon = psutil.Process(int(pid_file.read_text()))
        stdin, stdout, _ = client.exec_command("echo begun; cat; echo ended > ended", timeout=TIMEOUT_S)
        assert stdout.readline() == "begun\n"
        machine.cut()
        assert stdout.read() == b"" and stdout.channel.recv_exit_status() == -1
        until(lambda: (machine.home / "ended").exists())
        del stdin  # it was kept open by this name
    with Client(machine, ssh_keys) as again:
        assert again.run("true")[0] == 0
        everything = machine.processes()
        assert daemon in everything
        port, host_key = machine.port, machine.host_key
        machine.stop()
    assert psutil.wait_procs(everything, timeout=TIMEOUT_S)[1] == []
    assert machine.processes() == [] and machine.connections() == 0
    with pytest.raises(OSError):
        Client(machine, ssh_keys)
    machine.start()
    assert (machine.port, machine.host_key) == (port, host_key)


def test_another_host_key(machine: SshMachine, ssh_keys: KeyPair) -> None:
    """Every later login sees the new key; the earlier connection stays."""
    before = machine.host_key
    with Client(machine, ssh_keys) as client:
        machine.rekey()
        assert client.run("true")[0] == 0 and machine.host_key != before
    with Client(machine, ssh_keys), pytest.raises(paramiko.BadHostKeyException):
        Client(machine, ssh_keys, host_key=before)


CHILD = """
import sys, time
from pathlib import Path
from tests.support.ssh_machines import KeyPair, SshMachine
from tests.support.sshd_software import Software
path = Path(sys.argv[2]) if sys.argv[2] else None
SshMachine(Path(sys.argv[1]), Software(path), authorized=[]).start()
print("started", flush=True)
time.sleep(1000)
"""


def test_nothing_outlives_tests_that_are_killed(sshd_software: Software, tmp_path: Path) -> None:
    """SIGKILL of the process that started a machine ends its server and its first process."""
    command = [sys.executable, "-c", CHILD, str(tmp_path / "m"), str(sshd_software.path or "")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    try:
        assert child.stdout is not None and child.stdout.readline() == b"started\n"
        started = psutil.Process(child.pid).children(recursive=True)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=TIMEOUT_S)
    assert len(started) >= 2
    assert psutil.wait_procs(started, timeout=TIMEOUT_S)[1] == []


def test_missing_software_is_installed_or_replaced(tmp_path: Path) -> None:
    """OpenSSH if it is found or installed; else the embedded server, with the reason."""
    fake = tmp_path / "sshd"

    class Installing(NoInstaller):
        def obstacle(self) -> str:
            return ""

        def install(self) -> None:
            fake.write_text("#!/bin/sh\necho 'unknown option -- V' >&2; echo OpenSSH_8.4p1 Debian-5 >&2; exit 1\n")
            fake.chmod(0o755)

    class Failing(Installing):
        def install(self) -> None:
            raise OSError("apt-get install failed: no space")

    def chosen(installer: NoInstaller) -> Software:
        return choose(installer=installer, search_path=[str(tmp_path)], environment={}, login_obstacle=str)

    assert chosen(NoInstaller()) == Software(None, why="sshd is missing; this test forbids it")
    assert chosen(Failing()) == Software(None, why="sshd is missing; apt-get install failed: no space")
    assert find([str(tmp_path)]) is None
    assert chosen(Installing()) == chosen(NoInstaller()) == Software(fake, (8, 4))
    locked = choose(installer=NoInstaller(), environment={}, login_obstacle=lambda: "the account is locked")
    assert locked == Software(None, why="the account is locked")
    wanted = choose(installer=NoInstaller(), environment={"POORWILL_TEST_SSHD": "embedded"})
    assert wanted.path is None and "POORWILL_TEST_SSHD=embedded" in str(wanted)


def test_an_installation_that_failed_is_not_tried_again(tmp_path: Path) -> None:
    """The reason is remembered; only root tries."""
    (tmp_path / "nothing-failed").write_text("apt-get update failed: no network")
    told = AptInstaller("nothing", lambda: False, tmp_path).obstacle()
    assert ("no network" in told and "nothing-failed" in told) or os.geteuid() != 0 or "apt" in told
