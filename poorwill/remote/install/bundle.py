"""What is sent to a machine: archives of the package and of pip, and the digest that names an engine.

Archives are zip files with fixed times and modes: the same source gives the same bytes everywhere.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from poorwill.errors import UsageError

# Rooms of the control side, which the engine does not import.
LEFT_OUT = frozenset(f"poorwill/{name}" for name in ("cli", "control", "media", "providers", "web"))
_SOURCES = frozenset({".py", ".txt", ".sh"})
# pip's certificates lie beside its code. The launchers it carries for another system stay here.
_PIP_SOURCES = frozenset({".py", ".pem", ".txt"})
_EPOCH = (1980, 1, 1, 0, 0, 0)
_HERE = Path(__file__).parent


@functools.cache
def package() -> bytes:
    """The package `poorwill` as the engine needs it, as a zip file."""
    return _zipped(_package_files())


@functools.cache
def pip() -> bytes:
    """The pip of this Python as a zip file that Python can import from. UsageError if this Python has no pip."""
    found = importlib.util.find_spec("pip")
    if found is None or found.origin is None:
        raise UsageError("this Python has no pip, which installs the engine on machines: python -m ensurepip")
    root = Path(found.origin).parent
    return _zipped(sorted(_walk(root, "pip", _PIP_SOURCES)))


def digest(requirements: Sequence[str]) -> str:
    """64 hex digits of the package and of all lines of requirements: another engine has another digest."""
    hashed = hashlib.sha256()
    for line in requirements:
        hashed.update(line.encode() + b"\n")
    for name, data in _package_files():
        hashed.update(f"{name} {len(data)}\n".encode() + data)
    return hashed.hexdigest()


def requirements(name: str) -> tuple[str, ...]:
    """The pins of a file of requirements in this package, each with its hashes on one line, without comments."""
    lines = (_HERE / name).read_text().replace(" \\\n    --hash", " --hash").splitlines()
    return tuple(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


def script(name: str) -> bytes:
    """The source of a script in this package that runs on the machine."""
    return (_HERE / name).read_bytes()


@functools.cache
def _package_files() -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted(_walk(_HERE.parents[1], "poorwill", _SOURCES)))


def _walk(folder: Path, name: str, kept: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            if path not in LEFT_OUT and entry.name != "__pycache__":
                yield from _walk(entry, path, kept)
        elif entry.suffix in kept:
            yield path, entry.read_bytes()


def _zipped(files: Iterable[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o600 << 16
            entry.create_system = 3  # Unix, also when it is made elsewhere
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=6)
    return out.getvalue()
