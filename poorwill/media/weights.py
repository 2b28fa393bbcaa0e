"""Weights of models in an object store, and the folders on this machine that they become.

    <store>/<prefix>/weights.json              which files there are (weights_manifest.py)
    <store>/<prefix>/<path>                    the files, as they are
    <cache>/<manifest hash>/<path>             all of them, each hashed once and on disk before the folder has its name
    <cache>/<manifest hash>.partial-<pid>/     on its way there; what a killed process left is continued
    <cache>/<manifest hash>.lock               held, by flock, while a process downloads

Published weights never change: a prefix is written once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from poorwill.errors import DeadlineExceeded, HostUnfit, NotFound, Refused, UsageError, WorkspaceError
from poorwill.file_lock import lock_file
from poorwill.media import weights_manifest
from poorwill.media.stop import Stop
from poorwill.media.weights_download import OnBytes, download, file_digest
from poorwill.media.weights_manifest import WeightsFile, WeightsManifest, digest_of, path_fault
from poorwill.store.base import Store
from poorwill.store.directory_tree import sync_folder

WAIT_S_MAX = 12 * 3600.0
"""How long to wait for another process that downloads the same weights."""
ABANDONED_S = 7 * 24 * 3600.0
"""After which an abandoned partial folder is removed."""
_PARTIAL = ".partial-"


def publish(folder: str | os.PathLike[str], store: Store, prefix: str) -> str:
    """Put the files of `folder` under `prefix`, the manifest last; returns its hash. Repeating it succeeds.

    Links to files are followed, as a snapshot of the hub needs; what begins with "." is left out. Refused if other
    weights are there, UsageError for a folder without files or with one that a store cannot name, WorkspaceError if
    files change meanwhile; errors of the store pass.
    """
    paths = sorted(_files_below(Path(folder)), key=os.fsencode)
    if not 0 < len(paths) <= weights_manifest.FILES_MAX:
        raise UsageError(f"{folder}: has {len(paths)} files, expected 1 to {weights_manifest.FILES_MAX}")
    before = {path: _stamp(Path(folder, path)) for path in paths}
    manifest = WeightsManifest(tuple(_described(Path(folder), path) for path in paths))
    data, key = manifest.encode(), _key(prefix, weights_manifest.NAME)
    with contextlib.suppress(NotFound):
        if store.get(key, bytes_max=weights_manifest.BYTES_MAX) == data:
            return digest_of(data)
        raise Refused(f"{store.describe()}: {key} names other weights: publish these under another prefix", key=key)
    for path in paths:
        store.put_file(_key(prefix, path), Path(folder, path))
    if before != {path: _stamp(Path(folder, path)) for path in paths}:
        raise WorkspaceError(f"{folder}: its files changed while they were published: publish them again")
    store.put(key, data)
    return digest_of(data)


def local_folder(
    store: Store,
    prefix: str,
    cache_root: str | os.PathLike[str],
    *,
    on_bytes: OnBytes = lambda done, total: None,
    stop: Stop | None = None,
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
) -> Path:
    """The folder with the weights under `prefix`, downloaded if it is not there whole (by its files' sizes).

    Several processes may ask for it at once: one downloads, the others wait. `on_bytes(done, total)` is called, by
    one thread at a time, for each piece. Cancelled between two pieces when `stop` says so. NotFound without a
    manifest; Corrupt if it cannot be trusted, or a file is not what it says; HostUnfit if the disk is too small or
    cannot be written; errors of the store pass. After each of them a new call continues with the files that are whole.
    """
    stop = stop or Stop()
    manifest, digest = _read_manifest(store, prefix)
    root = Path(cache_root).absolute()
    folder = root / digest
    if _is_whole(folder, manifest):
        return folder
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(root, digest)
        lock = lock_file(f"{folder}.lock", timeout_s=WAIT_S_MAX, check=stop.check)
        if lock is None:
            raise DeadlineExceeded(f"{folder}.lock: another process has been downloading for {WAIT_S_MAX:.0f} s")
        with lock:
            if _is_whole(folder, manifest):
                return folder
            partial = _adopt(root, digest)
            missing = _missing(partial, manifest, stop)
            _check_space(root, sum(file.size for file in missing), free_bytes)
            download(store, lambda path: _key(prefix, path), partial, missing, on_bytes, stop)
            os.rename(partial, folder)
            sync_folder(str(root))
    except OSError as error:
        raise HostUnfit(
            f"{root}: cannot keep weights: {error.strerror or error}; check the disk, or give another directory"
        ) from error
    return folder


def _read_manifest(store: Store, prefix: str) -> tuple[WeightsManifest, str]:
    key = _key(prefix, weights_manifest.NAME)
    try:
        data = store.get(key, bytes_max=weights_manifest.BYTES_MAX)
    except NotFound:
        raise NotFound(
            f"{store.describe()} has no {key}: publish the weights there (poorwill.media.weights.publish)", key=key
        ) from None
    return WeightsManifest.decode(data, f"{store.describe()}: {key}"), digest_of(data)


def _key(prefix: str, path: str) -> str:
    return f"{prefix.strip('/')}/{path}".lstrip("/")


def _is_whole(folder: Path, manifest: WeightsManifest) -> bool:
    return all(_size(folder / file.path) == file.size for file in manifest.files)


def _size(path: Path) -> int | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _adopt(root: Path, digest: str) -> Path:
    """Our partial folder: what a killed process left of it, or a damaged whole one, or a new one."""
    partial = root / f"{digest}{_PARTIAL}{os.getpid()}"
    for left in (root / digest, *sorted(root.glob(f"{digest}{_PARTIAL}*"))):
        if left == partial or not left.is_dir():
            continue
        if partial.exists():
            shutil.rmtree(left)
        else:
            os.rename(left, partial)
    partial.mkdir(mode=0o700, exist_ok=True)
    return partial


def _missing(partial: Path, manifest: WeightsManifest, stop: Stop) -> list[WeightsFile]:
    """Which files are not there whole; what is there and not one of them is removed."""
    left = {file.path: file for file in manifest.files}
    for path in _everything_below(partial):
        stop.check()
        name = path.relative_to(partial).as_posix()
        file = left.get(name)
        if file is not None and _size(path) == file.size and file_digest(path) == file.blake3:
            del left[name]
        else:
            path.unlink()
    return list(left.values())


def _everything_below(folder: Path) -> Iterator[Path]:
    """All that is not a folder, links to folders too."""
    for above, folders, names in os.walk(folder):
        links = [name for name in folders if Path(above, name).is_symlink()]
        yield from (Path(above, name) for name in [*names, *links])


def _check_space(root: Path, needed_bytes: int, free_bytes: Callable[[Path], int]) -> None:
    free = free_bytes(root)
    if free < needed_bytes:
        raise HostUnfit(
            f"{root}: the weights need {needed_bytes} more bytes, and the disk has {free}: remove folders of other "
            "models from it, or give another directory",
            needed_bytes=needed_bytes,
            free_bytes=free,
        )


def _sweep(root: Path, digest: str) -> None:
    """Remove what killed downloads of other weights left long ago."""
    for left in root.glob(f"*{_PARTIAL}*"):
        other = left.name.partition(_PARTIAL)[0]
        with contextlib.suppress(OSError):
            if other == digest or left.lstat().st_mtime >= time.time() - ABANDONED_S:
                continue
            if (lock := lock_file(root / f"{other}.lock")) is not None:  # else somebody works on it
                with lock:
                    shutil.rmtree(left)


def _files_below(folder: Path) -> Iterator[str]:
    for above, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(above, name).relative_to(folder).as_posix()
            if name.startswith("."):
                continue
            if (fault := path_fault(path)) is not None:
                raise UsageError(f"{folder}: {path[:120]!a} cannot be published: {fault}")
            yield path


def _unreadable(error: OSError) -> None:
    raise UsageError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _described(folder: Path, path: str) -> WeightsFile:
    with _reading(folder / path):
        return WeightsFile(path, os.stat(folder / path).st_size, file_digest(folder / path))


def _stamp(path: Path) -> tuple[int, int]:
    with _reading(path):
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkspaceError(f"{path}: cannot be read: {error.strerror}") from error
