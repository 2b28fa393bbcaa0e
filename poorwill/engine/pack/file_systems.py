"""The file systems that a workspace lies on: flushed before each scan, and asked whether their times can be trusted.

A page of a shared mapping that is dirty takes further writes without moving the times of its file. Once it has been
written back, the next write moves them again. So a scan that comes after a flush finds, by times alone, whatever is
written from then on, unless a file system keeps its pages dirty for ever, as those in memory do.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field

from poorwill.engine.pack import times_probe
from poorwill.engine.pack.mounts import MountLine
from poorwill.engine.protocol.context import Context
from poorwill.errors import WorkspaceError
from poorwill.positioned_io import closing_fd

FLUSH_DEADLINE_S = 600.0
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_NO_SUCH_CALL = (errno.ENOSYS, errno.EOPNOTSUPP)
_CLOCK = 5 if sys.platform == "linux" else time.CLOCK_REALTIME
"""The clock file times are taken from: comparing them with a finer one would misjudge the last tick.
5 is CLOCK_REALTIME_COARSE (linux/time.h), which Python has no name for."""
_OF_NETWORK = frozenset((
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
    "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs", "wekafs",
))  # fmt: skip
"""Other hosts may write there. Whoever serves a FUSE file system (`fuse.sshfs`) may be one."""


@dataclass(frozen=True, slots=True)
class Distrusted:
    """A file system, mounted at `path`, whose times do not tell of all writes. shared: with other hosts."""

    path: bytes
    why: str
    shared: bool


def now_ns() -> int:
    """By the clock that the kernel takes file times from."""
    return time.clock_gettime_ns(_CLOCK)


def sync_file_system(fd: int) -> None:
    """syncfs(2): what was written to the file system of `fd` goes to where it is kept. OSError.

    A kernel without the call is passed over: the probe finds that times do not move there.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) and ctypes.get_errno() not in _NO_SUCH_CALL:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@dataclass(slots=True)
class FileSystems:
    """What is known of file systems, by `st_dev`; one for all the scans of an engine.

    met: directories where a walk came to a file system that is not in the list of mounts, as subvolumes are.
    clock: gives nanoseconds, as file times do.
    """

    sync: Callable[[int], None] = sync_file_system
    deadline_s: float = FLUSH_DEADLINE_S
    clock: Callable[[], int] = now_ns
    distrusted: dict[int, Distrusted] = field(default_factory=dict)
    met: dict[bytes, None] = field(default_factory=dict)
    _judged: set[int] = field(default_factory=set)

    def flush(self, mounts: Iterable[MountLine], elsewhere: Sequence[bytes], context: Context) -> Set[int]:
        """Flush those that are mounted there, all at once; what is gone is passed over, what is not ours is distrusted.

        elsewhere: directories apart from the workspace, where a file may be made for a moment to try times with.
        Returns the devices that are known from here on. WorkspaceError that names the mount for an error of the flush,
        and for a file system that did not answer by the deadline.
        """
        flushes = [_Flush(self, mount, elsewhere) for mount in mounts]
        for flush in flushes:
            flush.start()
        ends_s = time.monotonic() + self.deadline_s
        for flush in flushes:
            while flush.is_alive():
                flush.join(min(0.2, max(0.0, ends_s - time.monotonic())))
                context.check()
                if flush.is_alive() and time.monotonic() >= ends_s:
                    raise WorkspaceError(
                        f"{os.fsdecode(flush.mount.path)} ({flush.mount.kind}) did not bring what was written to "
                        f"it to its disk or server within {self.deadline_s:.0f} s: what was written last could be "
                        "missed: see that it answers (sync -f), or unmount it or exclude it"
                    )
        for flush in flushes:
            if flush.error is not None:
                raise WorkspaceError(
                    f"{os.fsdecode(flush.mount.path)} ({flush.mount.kind}): what was written to it cannot be brought "
                    f"to its disk or server: {flush.error.strerror}: see to that file system, or exclude it"
                )
        return {flush.device for flush in flushes if flush.device is not None}

    def judge(self, device: int, mount: MountLine, fd: int, elsewhere: Sequence[bytes]) -> None:
        """Find out, once, whether the times of that file system can be trusted. OSError."""
        if device in self._judged:
            return
        shared = mount.kind in _OF_NETWORK or mount.kind.startswith("fuse.")
        if shared:
            why = "other hosts may write there"
        elif "ro" in mount.options and "rw" not in mount.options:
            why = ""  # nobody can write there
        else:
            same = [path for path in elsewhere if _device_of(path) == device]
            why = times_probe.why_not(fd, same, self.sync)
        if why:
            self.distrusted[device] = Distrusted(mount.path, f"{mount.kind}: {why}", shared)
        self._judged.add(device)


def _device_of(path: bytes) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


class _Flush(threading.Thread):
    """One file system being flushed. A thread of its own: a server that is gone keeps it for good."""

    def __init__(self, owner: FileSystems, mount: MountLine, elsewhere: Sequence[bytes]) -> None:
        super().__init__(name="flush", daemon=True)
        self.owner, self.mount, self.elsewhere = owner, mount, elsewhere
        self.device: int | None = None
        self.error: OSError | None = None

    def run(self) -> None:
        path = self.mount.path
        try:
            info = os.stat(path)
            if stat.S_IFMT(info.st_mode) not in (stat.S_IFDIR, stat.S_IFREG):
                return  # a device, which is not kept, and may mind being opened
            with closing_fd(os.open(path, _OPEN_FLAGS)) as fd:
                self.owner.sync(fd)
                self.owner.judge(info.st_dev, self.mount, fd, self.elsewhere)
            self.device = info.st_dev
        except PermissionError as error:
            device = _device_of(path)
            if device is not None:
                self.owner.distrusted[device] = Distrusted(path, f"{self.mount.kind}: {error.strerror}", shared=False)
                self.device = device
        except OSError as error:
            self.error = error if error.errno not in _GONE else None
