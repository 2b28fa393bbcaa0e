"""What the engine remembers on its machine: a file for each kind of thing and workspace.

How restored files look, so that the next snapshot need not read them: losing it costs time, never correctness, as a
file that is not recognised is read and hashed again. Which restore ended there (restore/ended.py), and who works there
(machine/holder.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar
from zipfile import BadZipFile

import numpy as np

from poorwill.errors import Corrupt
from poorwill.snapshot import fields
from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Manifest

WORKSPACES_MAX = 16
"""Of how many workspaces a kind of file is kept; the others, longest unchanged, go."""
RECORD_BYTES_MAX = 64 << 20
TICK_S = 0.025
"""Longer than the tick of a file system's clock, and than what a scan takes for too recent to trust."""
DIRECTORY_VARIABLE = "POORWILL_STATE_DIR"
T = TypeVar("T")


def state_dir() -> Path:
    """`$POORWILL_STATE_DIR`, else `$XDG_STATE_HOME/poorwill`, else `~/.local/state/poorwill`."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "poorwill"


def file_of(kind: str, root: bytes, suffix: str) -> Path:
    """Where what is remembered of the workspace `root` lies."""
    return state_dir() / f"{kind}-{hashlib.sha256(os.path.realpath(root)).hexdigest()[:24]}{suffix}"


def replace(path: Path, write: Callable[[IO[bytes]], object], kept_max: int = WORKSPACES_MAX) -> None:
    """Write a file of the state anew: the old one stands until the new one is whole, which only its owner can read.

    Removes the oldest of its kind beyond `kept_max`. OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        write(file)
    os.replace(unfinished, path)
    kind = path.name.partition("-")[0]
    kept = sorted(path.parent.glob(f"{kind}-*{path.suffix}"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
    for old in kept[kept_max:]:
        old.unlink(missing_ok=True)


def save(path: Path, record: object, kept_max: int = WORKSPACES_MAX) -> None:
    """Write a record as JSON; see `replace`. OSError."""
    text = json.dumps(fields.write(record)).encode()
    replace(path, lambda file: file.write(text), kept_max)


def load(path: Path, kind: type[T], bytes_max: int = RECORD_BYTES_MAX) -> T | None:
    """A record that was saved; None if there is none that can be read, or it is longer."""
    try:
        with open(path, "rb") as file:
            return fields.read(kind, json.loads(file.read(bytes_max)), str(path))
    except (OSError, ValueError, Corrupt):
        return None


def save_woken(root: bytes, manifest_hash: str, inode: Array, ctime_ns: Array) -> None:
    """Remember inode and ctime of every entry of the manifest as it now lies below `root`; best effort. Returns only
    when whoever changes a file from now on gives it another ctime than the remembered one."""
    time.sleep(TICK_S)

    def write(file: IO[bytes]) -> None:
        at_ns = np.array(time.time_ns())
        np.savez(file, manifest=np.array(manifest_hash), inode=inode, ctime_ns=ctime_ns, at_ns=at_ns)

    try:
        replace(file_of("woken", root, ".npz"), write)
    except OSError:
        return


def apply_woken(root: bytes, manifest_hash: str, manifest: Manifest) -> bool:
    """Put what was remembered of this manifest's restore into its entries; whether there was anything."""
    try:
        with np.load(file_of("woken", root, ".npz"), allow_pickle=False) as saved:
            inode, ctime_ns = saved["inode"], saved["ctime_ns"]
            if str(saved["manifest"]) != manifest_hash or not len(inode) == len(ctime_ns) == len(manifest.entries):
                return False
            manifest.entries.inode, manifest.entries.ctime_ns = inode.astype(np.uint64), ctime_ns.astype(np.int64)
            manifest.scanned_at_ns = int(saved["at_ns"])
            return True
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return False
