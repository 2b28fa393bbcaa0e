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


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


class Journal:
    """Appends are atomic and thread-safe: one write of four bytes each, on an O_APPEND descriptor."""

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
        try:
            data = b""
            while len(data) <= len(self._header) + 4 * chunks:
                more = os.read(fd, 1 << 20)
                if not more:
                    break
                data += more
        finally:
            os.close(fd)
        if not data.startswith(self._header):
            return None
        body = data[len(self._header) :]
        rows = np.frombuffer(body[: len(body) // 4 * 4], "<u4")
        done = np.zeros(chunks, bool)
        done[rows[rows < chunks]] = True
        return done

    def start(self, resumed: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.path, flags | (0 if resumed else os.O_TRUNC), 0o600)
        if not resumed:
            os.write(self._fd, self._header)

    def done(self, chunk: int) -> None:
        os.write(self._fd, chunk.to_bytes(4, "little"))

    def end(self) -> None:
        """The restore is whole: remove the journal."""
        self.close()
        os.unlink(self.path)

    def close(self) -> None:
        """Stop writing; the journal stays. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
