"""An engine whose kernel refuses some calls, as file systems of networks and disks that fail do."""

from __future__ import annotations

import errno
from pathlib import Path

from poorwill.remote.local_host import LocalHost

_SITE = """
import os

def _refusing(real, number, unless):
    def call(path, *rest, **named):
        if unless(path, *rest):
            return real(path, *rest, **named)
        raise OSError(number, os.strerror(number))
    return call

def _elsewhere(path, *rest):
    return not os.fsdecode(path).startswith({below!r})

os.lseek = _refusing(os.lseek, {number}, lambda fd, at, how: how != os.SEEK_DATA or "lseek" not in {calls!r})
for _name in ("readlink", "listxattr", "getxattr", "scandir"):
    if _name in {calls!r}:
        setattr(os, _name, _refusing(getattr(os, _name), {number}, _elsewhere))
"""


def refusing_host(folder: Path, below: Path, code: str, *calls: str) -> LocalHost:
    """Its calls of these names fail with the error `code` (`EIO`) for paths that begin with `below`.

    folder: where the engine finds what makes it so.
    """
    folder.mkdir()
    site = _SITE.format(below=str(below), number=getattr(errno, code), calls=calls)
    (folder / "sitecustomize.py").write_text(site)
    return LocalHost({"PYTHONPATH": str(folder)})
