"""Streams that a test can cut, or freeze so that nothing arrives any more: over sockets, and to a process."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress


class SocketStream:
    """Writes to one socket and reads from another one."""

    def __init__(self, writing: socket.socket, reading: socket.socket) -> None:
        self._writing, self._reading = writing, reading
        self._frozen = threading.Event()
        self._closed = threading.Event()

    def freeze(self) -> None:
        """From here on nothing passes, either way, and nothing says so."""
        self._frozen.set()

    def read(self, bytes_max: int, timeout_s: float) -> bytes:
        self._reading.settimeout(max(timeout_s, 0.001))
        data = self._reading.recv(bytes_max)
        if not self._frozen.is_set():
            return data
        if not self._closed.wait(timeout_s):
            raise TimeoutError("nothing arrives")
        return b""

    def write(self, data: bytes, timeout_s: float) -> None:
        if self._frozen.is_set():
            return
        self._writing.settimeout(max(timeout_s, 0.001))
        self._writing.sendall(data)

    def close(self) -> None:
        self._closed.set()
        for end in (self._writing, self._reading):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class ProcessStream(SocketStream):
    """Runs `command` with one socket as its stdin and one as its stdout, as a connection over SSH would."""

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        writing, stdin = socket.socketpair()
        reading, stdout = socket.socketpair()
        self.process = subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        stdin.close()
        stdout.close()
        super().__init__(writing, reading)

    def cut(self) -> None:
        """Kill the process, as sshd's child is killed: what it had read and not passed on is lost."""
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        super().close()
        self.cut()
