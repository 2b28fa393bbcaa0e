"""An SSH server for tests where OpenSSH is missing. It does what ssh_machines.py asks of sshd, by asyncssh.

python embedded_sshd.py SETTINGS.json. It writes its pid file when it listens, and again when it has obeyed a signal.
SIGHUP: read the host key again. SIGUSR1: drop all connections. Unlike sshd it has no SFTP, terminals or forwarding.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import asyncssh

READ_BYTES = 64 << 10
LOGIN_TIMEOUT_S = 30
SFTP_VERSION = 3

log = logging.getLogger("sshd")


class Login(asyncssh.SSHServer):
    """One connection."""

    connections: set[asyncssh.SSHServerConnection] = set()

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._sessions = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self.connections.add(conn)
        log.info("Connection from %s port %d", *conn.get_extra_info("peername")[:2])

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self._connection)
        log.info("Connection closed")

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        offered = key.export_public_key().split()[:2]
        lines = Path(self._settings["authorized_keys"]).read_bytes().splitlines()
        known = username == self._settings["user"] and offered in [line.split()[:2] for line in lines]
        log.info("%s publickey for %s", "Accepted" if known else "Failed", username)
        return known

    def session_requested(self) -> asyncssh.SSHServerProcess[bytes]:
        if self._sessions >= self._settings["sessions_max"]:
            log.error("no more sessions")
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "open failed")
        self._sessions += 1
        return asyncssh.SSHServerProcess(self._serve, None, SFTP_VERSION, False)

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        log.info("Starting session: command for %s", self._settings["user"])
        try:
            status = await self._run(process)
        finally:
            self._sessions -= 1
        if status < 0:
            process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
        else:
            process.exit(status)

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> int:
        """The command to its end, until nobody holds its output any more."""
        command = process.command
        arguments = ["-l"] if command is None else ["-c", command]
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            self._settings["shell"], *arguments,
            stdin=pipe, stdout=pipe, stderr=pipe,
            cwd=self._settings["home"], env=self._environment(command), start_new_session=True,
        )  # fmt: skip
        assert child.stdin is not None
        feeding = asyncio.create_task(_feed(process.stdin, child.stdin))
        try:
            await asyncio.gather(_show(child.stdout, process.stdout), _show(child.stderr, process.stderr))
            return await child.wait()
        finally:
            feeding.cancel()

    def _environment(self, command: str | None) -> dict[str, str]:
        host, port = self._connection.get_extra_info("peername")[:2]
        own = {"SSH_CLIENT": f"{host} {port} {self._settings['port']}"}
        if command is not None:
            own["SSH_ORIGINAL_COMMAND"] = command
        return {**own, **self._settings["environment"]}


async def _feed(source: asyncssh.SSHReader[bytes], sink: asyncio.StreamWriter) -> None:
    """What the client sends, to the command; the command's input ends when the client ends it, or is gone."""
    try:
        while data := await source.read(READ_BYTES):
            sink.write(data)
            await sink.drain()
    except (OSError, asyncssh.Error):
        pass  # the command reads no more, or the connection is lost
    finally:
        sink.close()


async def _show(source: asyncio.StreamReader | None, sink: asyncssh.SSHWriter[bytes]) -> None:
    """What the command writes, to the client; a client that is gone breaks the command's pipe."""
    assert source is not None
    try:
        while data := await source.read(READ_BYTES):
            sink.write(data)
            await sink.drain()
    except (OSError, asyncssh.Error):
        source._transport.close()  # type: ignore[attr-defined]


def _write_pid(path: str) -> None:
    whole = Path(f"{path}.new")
    whole.write_text(f"{os.getpid()}\n")
    whole.replace(path)


async def main(settings: dict[str, Any]) -> None:
    host_key = settings["host_key"]
    acceptor = await asyncssh.listen(
        "127.0.0.1",
        settings["port"],
        server_factory=lambda: Login(settings),
        server_host_keys=[host_key],
        encoding=None,
        line_editor=False,
        allow_pty=False,
        agent_forwarding=False,
        login_timeout=LOGIN_TIMEOUT_S,
    )

    def reread() -> None:
        acceptor.update(server_host_keys=[host_key])
        _write_pid(settings["pid_file"])

    def cut() -> None:
        for connection in list(Login.connections):
            connection.abort()
        _write_pid(settings["pid_file"])

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reread)
    loop.add_signal_handler(signal.SIGUSR1, cut)
    log.info("Server listening on 127.0.0.1 port %d.", settings["port"])
    _write_pid(settings["pid_file"])
    await acceptor.wait_closed()


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    logging.basicConfig(filename=given["log"], level=logging.INFO, format="%(message)s")
    asyncssh.set_log_level(logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(given))
