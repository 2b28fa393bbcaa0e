"""Whether a store in a directory lies inside the workspace, where it would be packed into itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import unquote

from poorwill.engine import state
from poorwill.engine.pack.mounts import MountLine, mount_of, mount_table, mounts_below
from poorwill.errors import UsageError
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.order import PackSettings
from poorwill.store.base import Store

_FILE = "file://"


def check_store_outside(store: Store, settings: PackSettings) -> None:
    """UsageError for a store inside the workspace, by whatever path and mounts, unless a snapshot leaves it out.

    That is so where it is excluded, or among the engine's own state.
    """
    if not store.url.startswith(_FILE):
        return
    place = os.path.realpath(os.fsencode(unquote(store.url.removeprefix(_FILE), errors="surrogateescape")))
    root, own = os.path.realpath(os.fsencode(settings.workspace)), os.path.realpath(os.fsencode(state.state_dir()))
    excluded = Globs(settings.exclude)
    for below in _places(place, root, mount_table()):
        if not excluded.covers(below) and _below(own, os.path.join(root, below)) is None:
            raise UsageError(
                f"the store {store.url} lies inside the workspace {settings.workspace}, at "
                f"'{os.fsdecode(below) or '.'}': a snapshot would pack the store into itself: use a store somewhere "
                "else, or exclude that path; nothing was written"
            )


def _places(place: bytes, root: bytes, table: list[MountLine]) -> Iterator[bytes]:
    """Where in the workspace the store, or some of it, can be seen."""
    path = place
    while not _are_same(path, root):
        if path == os.path.dirname(path):
            break
        path = os.path.dirname(path)
    else:
        yield os.path.relpath(place, path) if place != path else b""
    store, workspace = mount_of(place, table), mount_of(root, table)
    if store is None or workspace is None:
        return
    inside = _inside(store, place)
    if workspace.device == store.device and (below := _below(_inside(workspace, root), inside)) is not None:
        yield below
    for at, mount in mounts_below(root, table).items():
        if mount.device != store.device:
            continue
        if (below := _below(mount.subtree, inside)) is not None:
            yield os.path.join(at, below)
        elif _below(inside, mount.subtree) is not None:
            yield at


def _inside(mount: MountLine, path: bytes) -> bytes:
    """The path of a file in its file system."""
    return os.path.normpath(os.path.join(mount.subtree, os.path.relpath(path, mount.path)))


def _below(above: bytes, path: bytes) -> bytes | None:
    """`path` as seen from `above`; None if it is not below it."""
    if path == above:
        return b""
    start = above.rstrip(b"/") + b"/"
    return path[len(start) :] if path.startswith(start) else None


def _are_same(one: bytes, other: bytes) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
