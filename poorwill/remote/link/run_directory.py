"""Which engines are kept on this machine: `$POORWILL_STATE_DIR/run`, with a lock and a socket for each.

The lock of an engine is held by its keeper and by itself, so it is free only when both have ended, however they did.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import struct
from contextlib import suppress

from poorwill.errors import Corrupt
from poorwill.file_lock import FileLock, lock_directory, lock_file
from poorwill.remote.link import frames
from poorwill.remote.link.frames import Decoder, Kind, No, NoEngine
from poorwill.retry import polls

STATE_DIR_VARIABLE = "POORWILL_STATE_DIR"
START_S = 45.0
"""How long another keeper may take to start: less than a Link waits."""
_POLL_S = 0.02
_PEER = struct.Struct("3i")


class Claim:
    """The right to keep the engine of one name; `fd` is its lock."""

    def __init__(self, directory: RunDirectory, name: str, fd: int) -> None:
        self._directory, self.name, self.fd = directory, name, fd
        self._released = False

    def release(self) -> None:
        """Remove the engine's files. Idempotent. The lock is held until its last holder ends."""
        if not self._released:
            self._released = True
            self._directory.remove(self.name)


class RunDirectory:
    """Opens the directory, or makes it, for its owner alone. NoEngine if it cannot be used.

    An older keeper has `answer_s` to say whether it has a client, and `sweep_s` to end before it is killed.
    """

    def __init__(self, path: str, *, answer_s: float = 10.0, sweep_s: float = 15.0) -> None:
        self.path, self._answer_s, self._sweep_s = path, answer_s, sweep_s
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            found = os.fstat(self._fd)
            if found.st_uid != os.geteuid():
                raise NoEngine(No.UNFIT, f"{path} belongs to user {found.st_uid}: remove it")
            if stat.S_IMODE(found.st_mode) & 0o077:
                os.fchmod(self._fd, 0o700)
        except OSError as error:
            raise NoEngine(No.UNFIT, f"{path} cannot be used: {error.strerror}") from None

    @classmethod
    def of_environment(cls) -> RunDirectory:
        state_dir = os.environ.get(STATE_DIR_VARIABLE)
        if not state_dir:
            raise NoEngine(No.UNFIT, f"{STATE_DIR_VARIABLE} is not set")
        return cls(os.path.join(os.path.abspath(state_dir), "run"))

    def starting(self) -> FileLock:
        """A lock: one keeper starts at a time. NoEngine if another one takes too long."""
        lock = lock_directory(self.path, START_S)
        if lock is None:
            raise NoEngine(No.OCCUPIED, f"another engine has been starting for {START_S:g} s")
        return lock

    def claim(self, name: str) -> Claim:
        """NoEngine if there is an engine of that name already."""
        lock = lock_file(f"{name}.lock", dir_fd=self._fd)
        if lock is None:
            raise NoEngine(No.EXISTS, f"an engine '{name}' exists already")
        return Claim(self, name, lock.fd)

    def listen(self, name: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with suppress(FileNotFoundError):
                os.unlink(f"{name}.sock", dir_fd=self._fd)
            listener.bind(self._address(name))
            listener.listen(8)
        except OSError as error:
            listener.close()
            raise NoEngine(No.UNFIT, f"no socket can be made in {self.path}: {error.strerror}") from None
        return listener

    def connect(self, name: str) -> socket.socket | None:
        """A connection to the keeper of that name, or None if it has ended."""
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            peer.settimeout(self._answer_s)
            peer.connect(self._address(name))
        except OSError:
            peer.close()
            return None
        return peer

    def attach(self, name: str) -> socket.socket:
        """As `connect`. NoEngine if it has ended; the files that a killed one left are removed."""
        peer = self.connect(name)
        if peer is None:
            self._free(name)
            raise NoEngine(No.GONE, f"no engine '{name}' runs here any more")
        peer.settimeout(None)
        return peer

    def sweep(self, keep: str) -> None:
        """End all engines but `keep` whose keepers have no client, and wait until they are gone.

        NoEngine if one of them does not end.
        """
        names = [name[: -len(".lock")] for name in os.listdir(self._fd) if name.endswith(".lock")]
        for name in sorted(names)[:256]:
            if name != keep and not self._free(name):
                self._end(name)

    def remove(self, name: str) -> None:
        for suffix in ("sock", "lock"):
            with suppress(FileNotFoundError):
                os.unlink(f"{name}.{suffix}", dir_fd=self._fd)

    def _end(self, name: str) -> None:
        peer = self.connect(name)
        if peer is not None:
            with peer:
                if _has_client(peer):
                    return
                _wait_or_kill(peer, self._sweep_s)
        if not any(self._free(name) for _ in polls(_POLL_S, self._sweep_s)):
            raise NoEngine(No.OCCUPIED, f"an older engine, '{name}' in {self.path}, does not end: kill it by hand")

    def _free(self, name: str) -> bool:
        """Whether that engine has ended. Its files are removed then."""
        try:
            lock = lock_file(f"{name}.lock", create=False, dir_fd=self._fd)
        except OSError:
            return True
        if lock is None:
            return False
        with lock:
            self.remove(name)
        return True

    def _address(self, name: str) -> str:
        # A socket's address holds 107 bytes; through /proc the path of any directory is short.
        path = os.path.join(self.path, f"{name}.sock")
        return path if len(os.fsencode(path)) <= 100 else f"/proc/self/fd/{self._fd}/{name}.sock"


def _has_client(peer: socket.socket) -> bool:
    """Whether that keeper has a client. If not, it begins to end its engine."""
    decoder = Decoder()
    try:
        peer.sendall(frames.encode(Kind.SWEEP))
        while data := peer.recv(frames.FRAME_BYTES_MAX):
            for frame in decoder.feed(data):
                return frame.kind is Kind.BUSY
    except TimeoutError:
        raise NoEngine(
            No.OCCUPIED, f"the keeper of an older engine, process {peer_process(peer)}, does not answer"
        ) from None
    except (OSError, Corrupt):
        return False
    return False


def _wait_or_kill(peer: socket.socket, timeout_s: float) -> None:
    """Wait until the keeper has ended, which closes the connection."""
    peer.settimeout(timeout_s)
    try:
        while peer.recv(4096):
            pass
    except TimeoutError:
        # The kernel ends the engine with its keeper.
        os.kill(peer_process(peer), signal.SIGKILL)
    except OSError:
        return


def peer_process(peer: socket.socket) -> int:
    """Which process listens where this connection leads."""
    return int(_PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0])
