"""What a directory tree holds, in full: so that two trees can be compared when they never exist together."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

from blake3 import blake3

READ_BYTES = 4 << 20

Listing = dict[bytes, "Entry"]
"""By the path relative to the root; the root itself is b""."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Everything about one name that a copy has to keep: all but the access and change times.

    size, content, data: of regular files. content: BLAKE3 as hex. data: the (begin, end) ranges the file
    system stores, so holes are what lies between. same_as: for a file with several names, the first of them.
    target: of a symbolic link.
    """

    mode: int
    mtime_ns: int
    uid: int
    gid: int
    xattrs: tuple[tuple[str, bytes], ...]
    size: int = 0
    content: str = ""
    data: tuple[tuple[int, int], ...] = ()
    same_as: bytes = b""
    target: bytes = b""


def list_tree(root: str | os.PathLike[str]) -> Listing:
    """Read every byte below `root`. Raises OSError for what cannot be read. The tree must not be in use."""
    top = os.fsencode(root)
    paths = sorted(_paths(top))
    first_name: dict[tuple[int, int], bytes] = {}
    for path in paths:
        found = os.lstat(_below(top, path))
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            first_name.setdefault((found.st_dev, found.st_ino), path)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        entries = threads.map(lambda path: _entry(_below(top, path), first_name), paths)
        return dict(zip(paths, entries, strict=True))


def _paths(top: bytes) -> Iterator[bytes]:
    yield b""
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(_below(top, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                yield path
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)


def _below(top: bytes, path: bytes) -> bytes:
    return os.path.join(top, path) if path else top


def _entry(full: bytes, first_name: dict[tuple[int, int], bytes]) -> Entry:
    found = os.lstat(full)
    kind = stat.S_IFMT(found.st_mode)
    size, content, target = 0, "", b""
    data: tuple[tuple[int, int], ...] = ()
    if kind == stat.S_IFREG:
        size = found.st_size
        content, data = _read(full, size)
    elif kind == stat.S_IFLNK:
        target = os.readlink(full)
    return Entry(
        mode=found.st_mode,
        mtime_ns=found.st_mtime_ns,
        uid=found.st_uid,
        gid=found.st_gid,
        xattrs=_xattrs(full),
        size=size,
        content=content,
        data=data,
        same_as=first_name.get((found.st_dev, found.st_ino), b""),
        target=target,
    )


def _read(path: bytes, size: int) -> tuple[str, tuple[tuple[int, int], ...]]:
    digest = blake3()
    with open(path, "rb", buffering=0) as file:
        data = tuple(_data_ranges(file.fileno(), size))
        file.seek(0)
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest(), data


def _data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: only a hole is left
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, at


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False)) if hasattr(os, "listxattr") else []
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def differences(expected: Listing, found: Listing) -> list[str]:
    """One line for each name that is missing, additional, or not the same; empty when the trees are equal."""
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        before, after = expected.get(path), found.get(path)
        if before == after:
            continue
        name = repr(os.fsdecode(path or b"."))
        if before is None or after is None:
            lines.append(f"{name}: {'is missing' if after is None else 'was not there before'}")
            continue
        changed = [f.name for f in fields(Entry) if getattr(before, f.name) != getattr(after, f.name)]
        lines += [f"{name}: {key} {getattr(before, key)!r} became {getattr(after, key)!r}" for key in changed]
    return lines


def tree_bytes(listing: Listing) -> int:
    """The sizes of the regular files, each counted once, holes included."""
    return sum(entry.size for path, entry in listing.items() if entry.same_as in (b"", path))
