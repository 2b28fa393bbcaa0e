"""What the engine remembers on its machine: how restored files look, so that the next snapshot need not read them.

Losing it costs time, never correctness: a file that is not recognised is read and hashed again.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Manifest

WORKSPACES_MAX = 16
TICK_S = 0.025
"""Longer than the tick of a file system's clock, and than what a scan takes for too recent to trust."""
DIRECTORY_VARIABLE = "POORWILL_STATE_DIR"


def state_dir() -> Path:
    """`$POORWILL_STATE_DIR`, else `$XDG_STATE_HOME/poorwill`, else `~/.local/state/poorwill`."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "poorwill"


def _file(root: bytes) -> Path:
    return state_dir() / f"woken-{hashlib.sha256(os.path.realpath(root)).hexdigest()[:24]}.npz"


def save_woken(root: bytes, manifest_hash: str, inode: Array, ctime_ns: Array) -> None:
    """Remember inode and ctime of every entry of the manifest as it now lies below `root`; best effort. Returns only
    when whoever changes a file from now on gives it another ctime than the remembered one."""
    path = _file(root)
    time.sleep(TICK_S)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        with open(unfinished, "wb") as file:
            np.savez(
                file, manifest=np.array(manifest_hash), inode=inode, ctime_ns=ctime_ns, at_ns=np.array(time.time_ns())
            )
        os.replace(unfinished, path)
        kept = sorted(path.parent.glob("woken-*.npz"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
        for old in kept[WORKSPACES_MAX:]:
            old.unlink(missing_ok=True)
    except OSError:
        return


def apply_woken(root: bytes, manifest_hash: str, manifest: Manifest) -> bool:
    """Put what was remembered of this manifest's restore into its entries; whether there was anything."""
    try:
        with np.load(_file(root), allow_pickle=False) as saved:
            inode, ctime_ns = saved["inode"], saved["ctime_ns"]
            if str(saved["manifest"]) != manifest_hash or not len(inode) == len(ctime_ns) == len(manifest.entries):
                return False
            manifest.entries.inode, manifest.entries.ctime_ns = inode.astype(np.uint64), ctime_ns.astype(np.int64)
            manifest.scanned_at_ns = int(saved["at_ns"])
            return True
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return False
