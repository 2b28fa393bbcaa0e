"""Which chunks an interrupted restore had already written: a small file in the workspace itself.

It lies in the workspace because it must vanish with it, and it is the mark by which a workspace that is not whole is
known. It exists with its header or not at all, and goes last. Its header ties it to one snapshot and one selection, and
its entries to one boot of the machine: after a reboot, pages that were never flushed could be missing.

Where another restore is begun over one that was interrupted, the debt of the first stays: its key is in a second file,
until the same restore, or one of a whole snapshot, has ended there.
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from poorwill.engine.machine import processes
from poorwill.errors import WorkspaceError
from poorwill.snapshot.columns import Array

NAME = b".poorwill-restore"
OWED_NAME = b".poorwill-restore-owed"
NAMES = (NAME, OWED_NAME)
HEADER_BYTES = 48
_MAGIC = b"PWRESTO2"
_KEY_BYTES = 32
_BOOT_BYTES = 8
_UNKNOWN_KEY = bytes(_KEY_BYTES)
"""Of a journal without a header that can be read: no restore has it, so only a whole one pays that debt."""
_OWED, _PAID = b"PWOWED01", b"PWPAID01"
_DEBT_BYTES = 8 + _KEY_BYTES
_DEBTS_MAX = 4096
_UNDONE = 1 << 31
"""Set in the entry of a chunk that is done no more. Chunk numbers are far below."""
_ENTRY_BYTES = 4
_ENTRIES_PER_CHUNK_MAX = 16
"""A journal beyond that is no evidence of anything: all chunks are looked at again."""
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EPERM)
_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


def boot_id() -> str:
    """Another text each time the machine is started."""
    try:
        return processes.boot_id(Path("/"))
    except OSError:
        return "unknown"


class Journal:
    """Entries of four bytes: chunks that are done, or done no more; the last word on a chunk counts.

    Appends are atomic and thread-safe: one write each, on an O_APPEND descriptor. whole: whether all of the snapshot
    is restored, which leaves nothing of what restores before it owed.
    """

    def __init__(self, root: bytes, manifest_hash: str, selection: list[str], whole: bool) -> None:
        self._root, self._whole = root, whole
        self.path = os.path.join(root, NAME)
        self._key = hashlib.sha256(os.fsencode("\n".join([manifest_hash, *sorted(selection)]))).digest()
        boot = hashlib.sha256(boot_id().encode()).digest()[:_BOOT_BYTES]
        self._header = _MAGIC + self._key + boot
        self._debts = _Debts(root)
        self._fd = -1

    @staticmethod
    def left_in(root: bytes) -> bool:
        """Whether a restore into `root` began and did not end."""
        return any(os.path.lexists(os.path.join(root, name)) for name in NAMES)

    @property
    def hollow(self) -> bool:
        """Whether there is a journal without its header: the restore that made it was killed before it wrote more."""
        head = self._read(HEADER_BYTES)
        return head is not None and len(head) < HEADER_BYTES and _MAGIC.startswith(head[: len(_MAGIC)])

    @property
    def owes(self) -> bool:
        """Whether a restore that this one does not replace was interrupted before it, and has not ended since."""
        return not self._whole and bool(self._debts.left - {self._key})

    def resume(self, chunks: int) -> Array | None:
        """The chunks (bool, one per row) that were done, or None if no restore that began there is this one."""
        bytes_max = HEADER_BYTES + _ENTRY_BYTES * chunks * _ENTRIES_PER_CHUNK_MAX
        data = self._read(bytes_max)
        nothing = np.zeros(chunks, bool)
        if data is None:
            return nothing if self._key in self._debts.left else None
        if not data.startswith(_MAGIC + self._key):
            return None
        if not data.startswith(self._header) or len(data) > bytes_max:
            return nothing
        body = data[HEADER_BYTES:]
        entries = np.frombuffer(body[: len(body) // _ENTRY_BYTES * _ENTRY_BYTES], "<u4")
        rows = entries & (_UNDONE - 1)
        known = rows < chunks
        nothing[rows[known]] = entries[known] < _UNDONE  # of repeated rows numpy assigns the last
        return nothing

    def _read(self, bytes_max: int) -> bytes | None:
        """The beginning of the journal there, a little more than `bytes_max` of it; None if there is none."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            data = b""
            while len(data) <= bytes_max and (more := os.read(fd, 1 << 20)):
                data += more
            return data
        except OSError:
            return b""
        finally:
            os.close(fd)

    def start(self) -> None:
        """Before anything else is written: go on with the journal of this restore, or begin one. WorkspaceError.

        The mark is on the disk when this returns, and once a restore had begun to write there is no moment without one.
        """
        try:
            self._start(self._read(HEADER_BYTES))
        except OSError as error:
            raise WorkspaceError(
                f"{os.fsdecode(self._root)}: {error.strerror}: the mark of an unfinished restore cannot be written "
                "there: nothing was restored"
            ) from None

    def _start(self, head: bytes | None) -> None:
        if head is not None and head.startswith(self._header):
            self._fd = os.open(self.path, _APPENDING | os.O_NOFOLLOW)
            # Behind half an entry all others would be misaligned.
            os.truncate(self._fd, os.fstat(self._fd).st_size // _ENTRY_BYTES * _ENTRY_BYTES)
            return
        if os.path.lexists(self.path):
            if not self.hollow:
                known = head is not None and head.startswith(_MAGIC)
                self._debts.add(head[len(_MAGIC) :][:_KEY_BYTES] if known and head else _UNKNOWN_KEY)
            os.unlink(self.path)
        self._fd = _created(self._root, NAME, self._header)

    def done(self, chunk: int) -> None:
        os.write(self._fd, chunk.to_bytes(_ENTRY_BYTES, "little"))

    def undone(self, chunks: Array) -> None:
        """These chunk numbers are not in place any more: written before the first of their bytes is lost."""
        entries = memoryview((chunks.astype("<u4") | np.uint32(_UNDONE)).tobytes())
        while entries:
            entries = entries[os.write(self._fd, entries) :]

    def end(self) -> None:
        """The restore is whole: nothing of it is owed any more, and the journal goes."""
        self.close()
        if self._whole:
            self._debts.remove()
        else:
            self._debts.pay(self._key)
        os.unlink(self.path)

    def close(self) -> None:
        """Stop writing; the journal stays. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class _Debts:
    """The restores that were interrupted in a workspace and begun over by others: a file of keys, owed or paid."""

    def __init__(self, root: bytes) -> None:
        self._path = os.path.join(root, OWED_NAME)

    @property
    def left(self) -> set[bytes]:
        """The keys of those that were not paid. One that cannot be read counts as unknown, and stays."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return set()
        except OSError:
            return {_UNKNOWN_KEY}
        with open(fd, "rb") as file:
            data = file.read(_DEBT_BYTES * _DEBTS_MAX)
        owed: set[bytes] = set() if data and len(data) % _DEBT_BYTES == 0 else {_UNKNOWN_KEY}
        for at in range(0, len(data) - _DEBT_BYTES + 1, _DEBT_BYTES):
            tag, key = data[at : at + 8], data[at + 8 : at + _DEBT_BYTES]
            if tag == _PAID:
                owed.discard(key)
            else:
                owed.add(key if tag == _OWED else _UNKNOWN_KEY)
        return owed

    def add(self, key: bytes) -> None:
        """OSError."""
        if key not in self.left:
            self._append(_OWED + key)

    def pay(self, key: bytes) -> None:
        """Removes the file with the last of them. OSError."""
        left = self.left
        if left and not left - {key}:
            self.remove()
        elif key in left:
            self._append(_PAID + key)

    def remove(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def _append(self, record: bytes) -> None:
        try:
            fd = os.open(self._path, _APPENDING | os.O_NOFOLLOW)
        except FileNotFoundError:
            os.close(_created(os.path.dirname(self._path), OWED_NAME, record))
            return
        try:
            os.write(fd, record)
            _flush(fd)
        finally:
            os.close(fd)


def _created(root: bytes, name: bytes, content: bytes) -> int:
    """A new file, open for appending, that has its name once its content is on the disk. OSError.

    Where there are no unnamed files it has its name first: cut off between the two, it stands there empty.
    """
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fd = _filled(os.open(root, _APPENDING | os.O_TMPFILE, 0o600), content)
            try:
                os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
            fd = _filled(os.open(name, _APPENDING | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory), content)
        _flush(directory)
        return fd
    finally:
        os.close(directory)


def _filled(fd: int, content: bytes) -> int:
    try:
        os.write(fd, content)
        _flush(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def _flush(fd: int) -> None:
    """Onto the disk: a mark that a power cut took away would leave a workspace that is half there and looks whole."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):  # a file system that has no such thing
            raise
