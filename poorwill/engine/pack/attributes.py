"""Extended attributes of scanned entries: read where something changed, taken over where nothing did."""

from __future__ import annotations

import errno
import os

import numpy as np

from poorwill.engine.pack.scan import Scan, path_below
from poorwill.engine.protocol.answers import LeftOut
from poorwill.snapshot import limits, xattrs
from poorwill.snapshot.columns import Array, Blobs
from poorwill.snapshot.tables import Manifest, XattrSets

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODATA)
_NO_ATTRIBUTES = (errno.EOPNOTSUPP, errno.ENOSYS)


def fill(scan: Scan, matched: Array, previous: Manifest) -> None:
    """Set `entries.xattrs` and `xattr_sets` of a scan; what could not be read is noted there.

    matched: each entry's unchanged row in `previous`, or -1. A changed attribute changes the ctime, so unchanged
    entries cost no system call.
    """
    sets: dict[bytes, int] = {}
    numbers = scan.entries.xattrs
    kept = np.flatnonzero(matched >= 0)
    kept = kept[previous.entries.xattrs[matched[kept]] > 0]
    for row in kept.tolist():
        old = int(previous.entries.xattrs[matched[row]])
        numbers[row] = sets.setdefault(previous.xattr_sets.attributes[old - 1], len(sets)) + 1
    for row in np.flatnonzero(matched < 0).tolist():
        found = of_entry(scan, row)
        if found:
            numbers[row] = sets.setdefault(found, len(sets)) + 1
    scan.xattr_sets = XattrSets(Blobs.of(list(sets)))


def of_entry(scan: Scan, row: int) -> bytes:
    """An entry's attributes as one of `xattr_sets`, "" if it has none; what could not be read goes to `unreadable`, and
    what is too long to `skipped`."""
    path = scan.path(row)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (*_GONE, *_NO_ATTRIBUTES):
            scan.unreadable.append(LeftOut(path_below(scan.root, path), f"its attributes: {error.strerror}"))
        return b""
    found = _values(scan, path, names) if names else {}
    return xattrs.encoded(found) if found else b""


def _values(scan: Scan, path: bytes, names: list[str]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name in names:
        try:
            value = os.getxattr(path, name, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (*_GONE, *_NO_ATTRIBUTES):
                scan.unreadable.append(LeftOut(path_below(scan.root, path), f"xattr {name}: {error.strerror}"))
            continue
        if len(xattrs.encoded({**found, os.fsencode(name): value})) > limits.XATTR_SET_BYTES_MAX:
            why = f"xattr {name}: more than {limits.XATTR_SET_BYTES_MAX} bytes of attributes"
            scan.skipped.append(LeftOut(path_below(scan.root, path), why))
            continue
        found[os.fsencode(name)] = value
    return found
