"""Files that appear under their names whole and durable, below one root directory.

Several processes may write and prune the same tree at once. No symbolic link below the root is followed. Errors are
OSError, and StoreRefused or StoreUnavailable where the cause is known here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from poorwill.errors import StoreRefused, StoreUnavailable
from poorwill.file_lock import FileLock, lock_file
from poorwill.positioned_io import closing_fd

ABANDONED_S = 24 * 3600
ATTEMPTS_MAX = 100
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class DirectoryTree:
    """The tree below `root`, which is made by the first write if its parent exists."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """StoreRefused if `root` is not a directory and could not become one."""
        self.root = os.path.realpath(os.fspath(root))
        if not os.path.lexists(self.root):
            self._require_parent()
        elif not os.path.isdir(self.root):
            raise StoreRefused(f"{self.root} is not a directory, and a store needs one")

    def path(self, *components: str) -> str:
        """The path of a name. StoreRefused if a directory on the way is a symbolic link: it could lead anywhere."""
        path = os.path.join(self.root, *components)
        folder = os.path.dirname(path)
        if os.path.realpath(folder) != folder:
            raise StoreRefused(f"{folder} leads through a symbolic link, which a store at {self.root} does not follow")
        return path

    def create(self, path: str) -> int:
        """A descriptor of a new, empty file, locked (flock) where that is possible; missing folders are made."""
        for _ in range(ATTEMPTS_MAX):
            self._make_folders(os.path.dirname(path))
            # Another process may prune the folder just made, or sweep the file before it is locked.
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, _CREATE, 0o666)
                if _is_locked(fd):
                    return fd
                os.close(fd)
                os.unlink(path)
        raise StoreUnavailable(f"{os.path.dirname(path)} keeps disappearing while it is written to")

    def place(self, temporary: str, path: str, *, replace: bool) -> bool:
        """Give a file that is already on disk its name, durably. False if the name is taken and not to be replaced.
        FileNotFoundError if `temporary` is gone."""
        for _ in range(ATTEMPTS_MAX):
            self._make_folders(os.path.dirname(path))
            try:
                if replace:
                    os.replace(temporary, path)
                else:
                    _link(temporary, path)
                sync_folder(os.path.dirname(path))
                return True
            except FileExistsError:
                return False
            except FileNotFoundError:
                if not os.path.lexists(temporary):
                    raise
        raise StoreUnavailable(f"{os.path.dirname(path)} keeps disappearing while it is written to")

    def prune(self, folder: str, end: str) -> None:
        """Remove folders that became empty, upwards from `folder` to just below `end`."""
        with contextlib.suppress(OSError):
            while folder != end and folder != self.root:
                os.rmdir(folder)
                folder = os.path.dirname(folder)

    def sweep(self, folder: str, lock: Callable[..., FileLock | None] = lock_file) -> None:
        """Remove the files of a folder that their writers have left: nobody holds the lock that `create` took or, where
        there are no locks, they were not changed for ABANDONED_S."""
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    _remove_if_left(entry, lock)

    def walk(self, base: str, prefix: str, *, without: str = "") -> Iterator[tuple[str, str]]:
        """(name relative to `base`, path) of the regular files whose name starts with `prefix`, in the order of the
        names' UTF-8 bytes. The folder `without` in `base` is left out."""
        folder, _, start = prefix.rpartition("/")
        path = os.path.join(base, *folder.split("/")) if folder else base
        self.path(path, "any")
        yield from self._walk_folder(path, folder + "/" if folder else "", start, without)

    def _walk_folder(self, folder: str, before: str, start: str, without: str) -> Iterator[tuple[str, str]]:
        names = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith(start) or (entry.name == without and not before):
                        continue
                    # A folder is sorted by its name with a slash: 'a-b' < 'a/x' < 'a0'.
                    if entry.is_dir(follow_symlinks=False):
                        names.append(entry.name + "/")
                    elif entry.is_file(follow_symlinks=False):
                        names.append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in sorted(names):
            if name.endswith("/"):
                yield from self._walk_folder(os.path.join(folder, name[:-1]), before + name, "", without)
            else:
                yield before + name, os.path.join(folder, name)

    def _make_folders(self, folder: str) -> None:
        missing = []
        while folder != os.path.dirname(self.root) and not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        if folder == os.path.dirname(self.root):
            self._require_parent()
        for name in reversed(missing):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.mkdir(name)
                sync_folder(os.path.dirname(name))

    def _require_parent(self) -> None:
        parent = os.path.dirname(self.root)
        if not os.path.isdir(parent):
            raise StoreRefused(
                f"{self.root} cannot be made: {parent} is not a directory; create it, or correct the path"
            )


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable, if it is still there."""
    with contextlib.suppress(FileNotFoundError):
        _sync(folder, os.O_DIRECTORY)


def sync_file(path: str | os.PathLike[str]) -> None:
    """Make a file's content durable. OSError, also for a symbolic link."""
    _sync(path, os.O_NOFOLLOW)


def _sync(path: str | os.PathLike[str], flags: int) -> None:
    with closing_fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)) as fd:
        os.fsync(fd)


def _is_locked(fd: int) -> bool:
    """Lock a new file, so that nobody sweeps it; True also where there are no locks. False if it was swept already."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return os.fstat(fd).st_nlink > 0


def _remove_if_left(entry: os.DirEntry[str], lock: Callable[..., FileLock | None]) -> None:
    try:
        held = lock(entry.path, create=False)
    except FileNotFoundError:
        return
    except OSError:
        if entry.stat(follow_symlinks=False).st_mtime < time.time() - ABANDONED_S:
            os.unlink(entry.path)
        return
    if held is not None:
        with held:
            os.unlink(entry.path)


def _link(temporary: str, path: str) -> None:
    """Give a file a name. FileExistsError if the name is taken."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A filesystem without hard links: the best it offers is to look before the rename.
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.rename(temporary, path)
