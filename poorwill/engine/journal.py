"""Which chunks an interrupted restore had already written: a small file in the workspace itself.

It lies in the workspace because it must vanish with it. Its header ties it to one snapshot, one selection
and one boot of the machine: after a reboot, pages that were never flushed could be missing.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from poorwill.snapshot.columns import Array

NAME = b".poorwill-restore"
_MAGIC = b"PWRESTO1"
_UNDONE = 1 << 31
"""Set in the entry of a chunk that is done no more. Chunk numbers are far below."""
_ENTRY_BYTES = 4
_ENTRIES_PER_CHUNK_MAX = 16
"""A journal beyond that is no evidence of anything: all chunks are looked at again."""


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


class Journal:
    """Entries of four bytes: chunks that are done, or done no more; the last word on a chunk counts. Appends are atomic
    and thread-safe: one write each, on an O_APPEND descriptor."""

    def __init__(self, root: bytes, manifest_hash: str, selection: list[str]) -> None:
        self.path = os.path.join(root, NAME)
        identity = "\n".join([manifest_hash, _boot_id(), *sorted(selection)])
        self._header = _MAGIC + hashlib.sha256(os.fsencode(identity)).digest()
        self._fd = -1

    @staticmethod
    def left_in(root: bytes) -> bool:
        """Whether a restore into `root` began and did not end."""
        return os.path.lexists(os.path.join(root, NAME))

    def resume(self, chunks: int) -> Array | None:
        """The chunks (bool, one per row) that were done, or None if the journal there is not of this restore."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        bytes_max = len(self._header) + _ENTRY_BYTES * chunks * _ENTRIES_PER_CHUNK_MAX
        with os.fdopen(fd, "rb") as file:
            data = file.read(bytes_max + 1)
        if not data.startswith(self._header):
            return None
        if len(data) > bytes_max:
            return np.zeros(chunks, bool)
        body = data[len(self._header) :]
        entries = np.frombuffer(body[: len(body) // _ENTRY_BYTES * _ENTRY_BYTES], "<u4")
        rows = entries & (_UNDONE - 1)
        known = rows < chunks
        done = np.zeros(chunks, bool)
        done[rows[known]] = entries[known] < _UNDONE  # of repeated rows numpy assigns the last
        return done

    def start(self, resumed: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.path, flags | (0 if resumed else os.O_TRUNC), 0o600)
        if resumed:  # behind half an entry all others would be misaligned
            os.truncate(self._fd, os.fstat(self._fd).st_size // _ENTRY_BYTES * _ENTRY_BYTES)
        else:
            os.write(self._fd, self._header)

    def done(self, chunk: int) -> None:
        os.write(self._fd, chunk.to_bytes(_ENTRY_BYTES, "little"))

    def undone(self, chunks: Array) -> None:
        """These chunk numbers are not in place any more: written before the first of their bytes is lost."""
        entries = memoryview((chunks.astype("<u4") | np.uint32(_UNDONE)).tobytes())
        while entries:
            entries = entries[os.write(self._fd, entries) :]

    def end(self) -> None:
        """The restore is whole: remove the journal."""
        self.close()
        os.unlink(self.path)

    def close(self) -> None:
        """Stop writing; the journal stays. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
