"""Machines for tests that are reached over SSH: each a real SSH server on loopback with a home of its own.

What runs on a machine descends from its first process (machine_init.py) and ends with it: with `stop()`, and when
the tests are killed. The file system, the network and the user are those of the computer that runs the tests.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments.servers import child_process
from deployments.servers.loopback import free_port
from tests.support.sshd_software import Software

START_ATTEMPTS_MAX = 5
START_TIMEOUT_S = 20.0
SESSIONS_MAX = 10
"""sshd's own default, for each connection."""
STARTUPS_MAX = 100
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PRIVILEGE_SEPARATION = Path("/run/sshd")
SFTP_SERVERS = ("/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh", "/usr/libexec")
PENALTIES_SINCE = (9, 8)
HERE = Path(__file__).parent
_POLL_S = 0.005
# SetEnv gives HOME, but sshd changes to the folder that the user database names. SHLVL: bash reads ~/.bashrc in a
# session's first shell, as it would without this line, and not again in the second.
_SESSION = 'cd && exec env SHLVL=2 "$SHELL" -c "${SSH_ORIGINAL_COMMAND:-exec $SHELL -l}"'


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key. private: OpenSSH PEM, without a passphrase. public: one line, without a comment."""

    private: str = field(repr=False)
    public: str

    @classmethod
    def generate(cls) -> KeyPair:
        key = Ed25519PrivateKey.generate()
        pem, line = serialization.Encoding.PEM, serialization.Encoding.OpenSSH
        private = key.private_bytes(pem, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        return cls(private.decode(), key.public_key().public_bytes(line, serialization.PublicFormat.OpenSSH).decode())


class SshMachine:
    """One machine: `with SshMachine(folder, software, authorized=[keys.public]) as machine:`.

    `user` may log in at `host`:`port` with the keys in `authorized`, and with no password. Sessions begin in `home`,
    which is also their $HOME, with `environment` and PATH, and nothing of the environment of the tests.
    sessions_max: for each connection. The port and the host key stay the same when it is started again.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        folder: Path,
        software: Software,
        *,
        authorized: Sequence[str],
        home: Path | None = None,
        environment: Mapping[str, str] | None = None,
        sessions_max: int = SESSIONS_MAX,
        startups_max: int = STARTUPS_MAX,
    ) -> None:
        self.folder, self.software = folder.resolve(), software
        self.home = (home or self.folder / "home").resolve()
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.host_key = ""
        self._environment = dict(environment or {})
        self._sessions_max, self._startups_max = sessions_max, startups_max
        self._port: int | None = None
        self._init: subprocess.Popen[bytes] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file("authorized_keys").write_text("".join(f"{line}\n" for line in authorized))
        self._new_host_key()

    @property
    def port(self) -> int:
        """Known once started."""
        assert self._port is not None, "the machine has no port before it is started"
        return self._port

    def start(self) -> SshMachine:
        """Start, and wait until it can be reached."""
        assert self._init is None, "it is running already"
        # A port found free can be taken before sshd binds it; one that was had before is kept.
        for _ in range(1 if self._port else START_ATTEMPTS_MAX):
            port = self._port or free_port()
            self._file("sshd.pid").unlink(missing_ok=True)
            init = self._init = child_process.start(
                [sys.executable, "-I", "-S", str(HERE / "machine_init.py"), *self._server_command(port)],
                environment={"PATH": PATH},
                log_path=self._file("console.log"),
                name=f"machine-{port}",
            )
            if self._await_pid_file(init):
                self._port = port
                return self
            self.stop()
        raise AssertionError(f"no SSH server on port {port}: {self.log()[-500:]} {self._text('console.log')[-500:]}")

    def stop(self) -> None:
        """End everything that runs on it, as when its power is cut. Idempotent; the files stay."""
        init, self._init = self._init, None
        if init is not None:
            child_process.end(init, signal.SIGTERM)

    def __enter__(self) -> SshMachine:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def authorize(self, public_key: str) -> None:
        """Let one more key in, from the next login on."""
        with self._file("authorized_keys").open("a") as file:
            file.write(f"{public_key}\n")

    def rekey(self) -> None:
        """From now on the machine has another host key, as one would that got its address. Open connections go on."""
        self._new_host_key()
        self._signal(signal.SIGHUP)

    def cut(self) -> None:
        """End all connections as a crash of the server's processes would. What runs in their sessions is not killed."""
        if self.software.path is None:
            self._signal(signal.SIGUSR1)
            return
        # Since OpenSSH 9.8 those that serve are sshd-session and sshd-auth. A session's own commands are left alone.
        serving = [child for child in self._server().children(recursive=True) if child.name().startswith("sshd")]
        for process in serving:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert psutil.wait_procs(serving, timeout=START_TIMEOUT_S)[1] == []

    def connections(self) -> int:
        """How many are open now, as its server sees it; also such as have not logged in."""
        found = psutil.net_connections("tcp4")
        return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == self.port for c in found)

    def sessions_opened(self) -> int:
        """How many session channels have run something since the machine was made."""
        return self.log().count("Starting session:")

    def log(self) -> str:
        """All that its SSH server has written."""
        return self._text("sshd.log")

    def processes(self) -> list[psutil.Process]:
        """All that runs on it: its SSH server, sessions, and daemons that sessions have left."""
        return [] if self._init is None else psutil.Process(self._init.pid).children(recursive=True)

    def _file(self, name: str) -> Path:
        return self.folder / name

    def _text(self, name: str) -> str:
        try:
            return self._file(name).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _new_host_key(self) -> None:
        key = KeyPair.generate()
        self._file("host_key.new").touch(mode=0o600)
        self._file("host_key.new").write_text(key.private)
        self._file("host_key.new").replace(self._file("host_key"))
        self.host_key = key.public

    def _server(self) -> psutil.Process:
        return psutil.Process(int(self._text("sshd.pid")))

    def _signal(self, signum: signal.Signals) -> None:
        """Send it to the server, which writes its pid file again when it has obeyed."""
        assert self._init is not None, "the machine is not running"
        server = self._server()
        self._file("sshd.pid").unlink()
        server.send_signal(signum)
        assert self._await_pid_file(self._init), self.log()[-500:]

    def _await_pid_file(self, init: subprocess.Popen[bytes]) -> bool:
        """Whether it appeared: the first process ends when the server does."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and init.poll() is None:
            if self._text("sshd.pid").endswith("\n"):
                return True
            time.sleep(_POLL_S)
        return False

    def _server_command(self, port: int) -> list[str]:
        if self.software.path is None:
            self._file("settings.json").write_text(json.dumps(self._embedded_settings(port)))
            return [sys.executable, "-I", str(HERE / "embedded_sshd.py"), str(self._file("settings.json"))]
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        self._file("sshd_config").write_text("".join(f"{line}\n" for line in self._configuration(port)))
        return [
            str(self.software.path), "-D", "-f", str(self._file("sshd_config")), "-E", str(self._file("sshd.log"))
        ]  # fmt: skip

    def _configuration(self, port: int) -> list[str]:
        """https://man.openbsd.org/sshd_config"""
        environment = {"HOME": str(self.home), **self._environment}
        sftp = [Path(folder, "sftp-server") for folder in SFTP_SERVERS if Path(folder, "sftp-server").exists()]
        lines = [
            f"Port {port}",
            f"ListenAddress {self.host}",
            f'HostKey "{self._file("host_key")}"',
            f'PidFile "{self._file("sshd.pid")}"',
            f'AuthorizedKeysFile "{str(self._file("authorized_keys")).replace("%", "%%")}"',
            f"MaxSessions {self._sessions_max}",
            f"MaxStartups {self._startups_max}",
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in environment.items()),
            f"ForceCommand {_SESSION}",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "PrintMotd no",
            "PrintLastLog no",
            "ClientAliveInterval 0",
            "LogLevel VERBOSE",
            *(f"Subsystem sftp {path}" for path in sftp[:1]),
        ]
        if self.software.version >= PENALTIES_SINCE:
            lines.append("PerSourcePenalties no")  # else `cut()` shuts loopback out for minutes
        return lines

    def _embedded_settings(self, port: int) -> dict[str, object]:
        shell = pwd.getpwuid(os.geteuid()).pw_shell
        own = {"HOME": str(self.home), "USER": self.user, "LOGNAME": self.user, "SHELL": shell, "PATH": PATH}
        return {
            "port": port,
            "user": self.user,
            "home": str(self.home),
            "shell": shell,
            "environment": {**own, **self._environment},
            "sessions_max": self._sessions_max,
            "host_key": str(self._file("host_key")),
            "authorized_keys": str(self._file("authorized_keys")),
            "pid_file": str(self._file("sshd.pid")),
            "log": str(self._file("sshd.log")),
        }
