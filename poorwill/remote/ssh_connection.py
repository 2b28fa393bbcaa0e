"""One SSH connection to a machine: commands that end, and one stream to a program that keeps running.

paramiko's `settimeout` bounds reads, but neither the request for a command nor a write into a full socket: those are
bounded here by closing the whole connection when their time is up.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import paramiko

from poorwill.errors import DeadlineExceeded, EngineLost, HostRefused
from poorwill.providers.base import SshEndpoint
from poorwill.remote.base import OUTPUT_BYTES_MAX, Finished
from poorwill.remote.host_key import PinnedKey
from poorwill.remote.identity import Identity

DEFAULT_USER = "root"
HANDSHAKE_TIMEOUT_S = 15.0
OPEN_TIMEOUT_S = 15.0
READ_BYTES = 64 << 10
# paramiko logs tracebacks where our errors say the same in a line.
_log = logging.getLogger("poorwill.remote.paramiko")
_log.propagate = False
_log.addHandler(logging.NullHandler())
_BROKEN = (OSError, EOFError, paramiko.SSHException)


class SshConnection:
    """An authenticated connection to a machine whose host key is the pinned one. A Shell. Thread-safe."""

    def __init__(self, endpoint: SshEndpoint, identity: Identity, pin: PinnedKey) -> None:
        """Connect. EngineLost without an answer, HostRefused for another host key or if no key of ours is accepted."""
        self._endpoint = endpoint
        self._transport = _transport(endpoint)
        try:
            self._begin(identity, pin)
        except BaseException:
            self._transport.close()
            raise

    def _begin(self, identity: Identity, pin: PinnedKey) -> None:
        options = self._transport.get_security_options()
        options.key_types = pin.algorithms(tuple(options.key_types))
        try:
            self._transport.start_client(timeout=HANDSHAKE_TIMEOUT_S)
            shown = self._transport.get_remote_server_key()
        except _BROKEN as error:
            raise EngineLost(f"{self.describe()} does not speak SSH: {_reason(error)}") from None
        line = f"{shown.get_name()} {shown.get_base64()}"
        pin.check(line, self.describe())
        self._log_in(identity.keys())
        pin.accept(line)
        self._transport.set_keepalive(15)

    def _log_in(self, keys: list[paramiko.PKey]) -> None:
        self._transport.auth_timeout = HANDSHAKE_TIMEOUT_S
        for key in keys:
            try:
                self._transport.auth_publickey(self._endpoint.user or DEFAULT_USER, key)
            except paramiko.AuthenticationException:
                if not self._transport.is_active():
                    break  # it hung up after too many tries
                continue
            except _BROKEN as error:
                raise EngineLost(f"{self.describe()} hung up while logging in: {_reason(error)}") from None
            if self._transport.is_authenticated():
                return
        tried = ", ".join(key.fingerprint for key in keys)
        raise HostRefused(
            f"{self.describe()} does not let us in with {tried}: add the public key to ~/.ssh/authorized_keys "
            "there, or give the key that is in it"
        )

    def describe(self) -> str:
        return described(self._endpoint)

    def run(self, command: str, *, stdin: Iterable[bytes] = (), timeout_s: float) -> Finished:
        """Run a command to its end. EngineLost; DeadlineExceeded after `timeout_s`, which closes the connection."""
        channel = self._open(command, min(timeout_s, OPEN_TIMEOUT_S))
        stdout, stderr = bytearray(), bytearray()
        readers = [
            _thread("ssh-stdout", _take, channel.recv, stdout),
            _thread("ssh-stderr", _take, channel.recv_stderr, stderr),
        ]
        _thread("ssh-stdin", _send, channel, stdin)
        ended = channel.status_event.wait(timeout_s)
        if not ended:
            self.close()  # the command goes on, and so would its channel
            raise DeadlineExceeded(f"a command on {self.describe()} did not end within {timeout_s:g} s")
        for reader in readers:
            reader.join(2.0)  # for the rest of its output, which a process in its background may hold open
        status = channel.recv_exit_status()
        channel.close()
        if status < 0:
            raise EngineLost(f"the connection to {self.describe()} broke before a command ended")
        return Finished(status, bytes(stdout), bytes(stderr))

    def stream(self, command: str) -> SshStream:
        """Start a command and talk to it. Closing the stream closes the connection. EngineLost."""
        return SshStream(self, self._open(command, OPEN_TIMEOUT_S))

    def _open(self, command: str, timeout_s: float) -> paramiko.Channel:
        with _acting_after(timeout_s, self._transport.close) as late:
            try:
                channel = self._transport.open_session(timeout=timeout_s)
                channel.exec_command(command)
                return channel
            except _BROKEN as error:
                why = f"no answer for {timeout_s:g} s" if late.is_set() else _reason(error)
                raise EngineLost(f"{self.describe()} does not start a command: {why}") from None

    def close(self) -> None:
        """Idempotent; does not wait."""
        self._transport.close()


class SshStream:
    """A Stream to the stdin and stdout of a program on the machine."""

    def __init__(self, connection: SshConnection, channel: paramiko.Channel) -> None:
        self._connection, self._channel = connection, channel

    def read(self, bytes_max: int, timeout_s: float) -> bytes:
        self._channel.settimeout(timeout_s)
        try:
            return bytes(self._channel.recv(bytes_max))
        except TimeoutError:
            raise
        except _BROKEN as error:
            raise OSError(_reason(error)) from None

    def write(self, data: bytes, timeout_s: float) -> None:
        with _acting_after(timeout_s, self.close):
            try:
                self._channel.sendall(data)
            except _BROKEN as error:
                raise OSError(_reason(error)) from None

    def close(self) -> None:
        self._connection.close()


def described(endpoint: SshEndpoint) -> str:
    """user@host:port, for messages."""
    return f"{endpoint.user or DEFAULT_USER}@{endpoint.host}:{endpoint.port}"


@contextmanager
def _acting_after(timeout_s: float, act: Callable[[], None]) -> Iterator[threading.Event]:
    """Calls `act` in another thread, and sets the event, unless the body ends within `timeout_s`."""
    late = threading.Event()

    def fire() -> None:
        late.set()
        act()

    timer = threading.Timer(timeout_s, fire)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _thread(name: str, target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    thread.start()
    return thread


def _take(read: Callable[[int], bytes], into: bytearray) -> None:
    try:
        while data := read(READ_BYTES):
            into += data[: OUTPUT_BYTES_MAX - len(into)]
    except _BROKEN:
        return


def _send(channel: paramiko.Channel, pieces: Iterable[bytes]) -> None:
    try:
        for piece in pieces:
            channel.sendall(piece)
        channel.shutdown_write()
    except _BROKEN:
        return  # the command ended without reading all of it, or the connection broke: `run` finds out


def _transport(endpoint: SshEndpoint) -> paramiko.Transport:
    try:
        connected = socket.create_connection((endpoint.host, endpoint.port), timeout=10.0)
    except OSError as error:
        raise EngineLost(f"{described(endpoint)} cannot be reached: {_reason(error)}") from None
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transport = paramiko.Transport(connected)
    transport.set_log_channel(_log.name)
    return transport


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
