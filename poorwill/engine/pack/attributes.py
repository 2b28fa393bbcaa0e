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


def fill(scan: Scan, matched: Array, previous: Manifest) -> None:
    """Set `entries.xattrs` and `xattr_sets` of a scan; what could not be read is added to its `skipped`.

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
        path = scan.path(row)
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError:
            continue  # a file system without attributes, or an entry that is gone
        if names:
            found = _values(scan, path, names)
            numbers[row] = sets.setdefault(xattrs.encoded(found), len(sets)) + 1 if found else 0
    scan.xattr_sets = XattrSets(Blobs.of(list(sets)))


def _values(scan: Scan, path: bytes, names: list[str]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name in names:
        try:
            value = os.getxattr(path, name, follow_symlinks=False)
            if len(xattrs.encoded({**found, os.fsencode(name): value})) > limits.XATTR_SET_BYTES_MAX:
                raise OSError(errno.E2BIG, f"more than {limits.XATTR_SET_BYTES_MAX} bytes of attributes")
            found[os.fsencode(name)] = value
        except OSError as error:
            scan.skipped.append(LeftOut(path_below(scan.root, path), f"xattr {name}: {error.strerror}"))
    return found
