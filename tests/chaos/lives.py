"""A workspace that lives on from round to round."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from tests.support.workspaces import make_large

FOLDERS, FILES_MAX = 12, 400


def begin(workspace: Path) -> None:
    workspace.mkdir(parents=True, exist_ok=True)
    make_large(workspace)


def change(workspace: Path, random: Random) -> None:
    """A few files are made, written to, cut, renamed, linked and removed; large ones change in places."""
    folders = [workspace / f"folder{number}" for number in range(FOLDERS)]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    files = sorted(path for path in workspace.rglob("*") if path.is_file() and not path.is_symlink())
    for number in range(random.randrange(1, 40)):
        path = random.choice(files)
        if random.random() < 0.4 and len(files) < FILES_MAX:
            (random.choice(folders) / f"file{random.randrange(1 << 30)}").write_bytes(random.randbytes(number * 997))
        elif path.exists() and path.parent in folders:
            _change_one(path, random, folders)
        elif path.exists() and path.stat().st_size > 1 << 20:
            with path.open("r+b") as file:
                file.seek(random.randrange(path.stat().st_size - 4096))
                file.write(random.randbytes(4096))


def _change_one(path: Path, random: Random, folders: list[Path]) -> None:
    other = random.choice(folders) / f"moved{random.randrange(1 << 30)}"
    kind = random.randrange(6)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.rename(other)
    elif kind == 2:
        other.hardlink_to(path)
    elif kind == 3:
        os.truncate(path, random.randrange(path.stat().st_size + 1))
    elif kind == 4:
        path.chmod(random.choice((0o600, 0o640, 0o755)))
    else:
        other.symlink_to(path.name)
