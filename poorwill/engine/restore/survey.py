"""What stands already where a manifest's files are wanted: one stat each, and nothing is opened or changed."""

from __future__ import annotations

import errno
import os
import stat
import time
from array import array
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from poorwill.engine.pool import Bench
from poorwill.engine.protocol.context import Context
from poorwill.engine.restore.tree import Tree
from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Kind

_SIGNED = (1 << 63) - 1
_COLUMNS = ("row", "inode", "ctime_ns", "mtime_ns", "size", "mode", "uid", "gid", "links")
_CHECK_EVERY = 1024


@dataclass(slots=True)
class Survey:
    """A row per entry. bool but for `size`; all false where no regular file stands under the wanted name itself.

    regular: a regular file stands there, of `size` bytes.
    timed: its size and mtime are as wanted.
    unchanged: it is the file that the last restore of this very manifest left, content and all.
    settled: unchanged, and mode, owner and times are as wanted, so that there is nothing to do at all.
    shared: it has another name (hard link) that is not wanted, or not as a link of this file.
    """

    regular: Array
    timed: Array
    unchanged: Array
    settled: Array
    shared: Array
    size: Array


def survey(tree: Tree, bench: Bench, remembered: tuple[Array, Array] | None, context: Context | None) -> Survey:
    """Look at every wanted file whose directory existed before. Once `tree.make_directories` is done.

    remembered: inode and ctime of every entry as the last restore of this manifest left them.
    WorkspaceError if a directory stands where a file is wanted; what `context` raises.
    """
    entries = tree.entries
    files = tree.wanted & (entries.kind == Kind.FILE) & tree.existed[entries.parent]
    found = _look(tree, bench, np.flatnonzero(files).tolist(), context)
    row = found["row"]
    regular, timed, unchanged, settled, shared = (np.zeros(len(entries), bool) for _ in range(5))
    regular[row] = True
    timed[row] = (found["size"] == entries.size[row].astype(np.int64)) & (found["mtime_ns"] == entries.mtime_ns[row])
    size = np.zeros(len(entries), np.int64)
    size[row] = found["size"]
    same = np.zeros(len(row), bool)
    if remembered is not None:
        same = found["inode"] == (remembered[0][row] & np.uint64(_SIGNED)).astype(np.int64)
        same &= (found["ctime_ns"] == remembered[1][row]) & timed[row]
    # Also of unchanged files: a directory that was moved takes names along, and no file's ctime tells.
    linked = found["links"] > 1
    shared[row[linked]] = _shared(tree, bench, row[linked], found["inode"][linked], found["links"][linked])
    same &= ~shared[row]
    unchanged[row] = same
    same &= (found["mode"] == tree.mode[row]) & (entries.xattrs[row] == 0)
    if tree.owner[0] == 0:
        same &= (found["uid"] == entries.uid[row]) & (found["gid"] == entries.gid[row])
    settled[row] = same
    return Survey(regular, timed, unchanged, settled, shared, size)


def since_boot(at_ns: int) -> bool:
    """Whether the machine has been up since then. What it wrote before may have been lost when it went down."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return clock is not None and at_ns > time.time_ns() - time.clock_gettime_ns(clock)


def _look(tree: Tree, bench: Bench, rows: list[int], context: Context | None) -> dict[str, Array]:
    # Numbers in an array: tuples would take ten times the memory, and there may be millions of files.
    facts = array("q")
    for count, row in enumerate(rows):
        if context is not None and count % _CHECK_EVERY == 0:
            context.check()
        above = tree.directory(bench, int(tree.entries.parent[row]))
        try:
            info = os.stat(tree.entries.name[row], dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise tree.failed(row, error) from None
        if stat.S_ISDIR(info.st_mode):
            raise tree.failed(row, OSError(errno.EISDIR, "a directory is in the way"))
        if stat.S_ISREG(info.st_mode):
            inode, mode = info.st_ino & _SIGNED, info.st_mode & 0o7777
            facts.extend((row, inode, info.st_ctime_ns, info.st_mtime_ns, info.st_size, mode, info.st_uid, info.st_gid))
            facts.append(info.st_nlink)
    table = np.frombuffer(facts, np.int64).reshape(-1, len(_COLUMNS))
    return {name: table[:, i] for i, name in enumerate(_COLUMNS)}


def _shared(tree: Tree, bench: Bench, rows: Array, inodes: Array, links: Array) -> list[bool]:
    entries = tree.entries
    names: defaultdict[int, list[int]] = defaultdict(list)
    if len(rows):
        for row in np.flatnonzero(tree.wanted & (entries.kind == Kind.HARDLINK)).tolist():
            names[int(entries.link[row])].append(row)
    wanted = zip(rows.tolist(), inodes.tolist(), links.tolist(), strict=True)
    return [
        count != 1 + len(names[row]) or any(_inode(tree, bench, name) != inode for name in names[row])
        for row, inode, count in wanted
    ]


def _inode(tree: Tree, bench: Bench, row: int) -> int:
    parent = int(tree.entries.parent[row])
    if not tree.existed[parent]:
        return -1
    try:
        info = os.stat(tree.entries.name[row], dir_fd=tree.directory(bench, parent), follow_symlinks=False)
    except OSError:
        return -1
    return info.st_ino & _SIGNED
