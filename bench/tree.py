"""What a folder holds, so that a benchmark counts only a tool that gave everything back."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

READ_BYTES = 4 << 20
BATCH_ENTRIES = 256


def _paths(root: Path) -> list[str]:
    found: list[str] = []
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                found.append(path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
    return sorted(found)


def _entry_digest(root: str, path: str) -> bytes:
    full = os.path.join(root, path)
    seen = os.lstat(full)
    digest = blake3(f"{path}\0{seen.st_mode:o}\0".encode("utf-8", "surrogateescape"))
    if stat.S_ISLNK(seen.st_mode):
        digest.update(os.fsencode(os.readlink(full)))
    elif stat.S_ISREG(seen.st_mode):
        digest.update(seen.st_size.to_bytes(8, "little"))
        with open(full, "rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                digest.update(piece)
    return digest.digest()


def tree_digest(root: Path) -> str:
    """One hash over the names, modes, link targets and contents of everything below `root`.

    Times and owners are left out: not every tool keeps them by default.
    """
    paths = _paths(root)
    batches = [paths[at : at + BATCH_ENTRIES] for at in range(0, len(paths), BATCH_ENTRIES)]

    def batch_digests(batch: list[str]) -> bytes:
        return b"".join(_entry_digest(str(root), path) for path in batch)

    whole = blake3()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for digests in pool.map(batch_digests, batches):
            whole.update(digests)
    return whole.hexdigest()


def tree_bytes(root: Path) -> int:
    """The sizes of all regular files below `root` (or of `root` itself), added up."""
    if root.is_file():
        return root.stat().st_size
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(root) for name in names)
