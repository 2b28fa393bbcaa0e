"""Wheels of a few lines, as stand-ins for packages of many megabytes, and a Python that has only what it must have."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zipfile
from pathlib import Path


def make_wheel(folder: Path, name: str, version: str = "1.0", code: str | None = None) -> Path:
    """A pure wheel with one module, named like the distribution with `_` for `-`, that holds its version or `code`."""
    folder.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    path, info = folder / f"{module}-{version}-py3-none-any.whl", f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": code or f'VERSION = "{version}"\n',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
        wheel.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


def pinned(wheel: Path) -> str:
    """The line of a file of requirements that takes this wheel and no other."""
    name, version = wheel.name.split("-")[:2]
    return f"{name.replace('_', '-')}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def bare_python(folder: Path) -> Path:
    """This Python without pip, ensurepip, distutils and site-packages, as images without python3-venv have it."""
    base = Path(os.path.realpath(sys.executable))
    library = Path(os.__file__).parent
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / base.name
    shutil.copy2(base, python)
    bare_library = folder / "lib" / library.name
    bare_library.mkdir(parents=True)
    for entry in library.iterdir():
        if entry.name not in ("ensurepip", "distutils", "site-packages", "dist-packages", "__pycache__"):
            (bare_library / entry.name).symlink_to(entry)
    for shared in library.parent.glob("libpython*"):
        (folder / "lib" / shared.name).symlink_to(shared)
    return python
