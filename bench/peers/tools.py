"""Poorwill and the tools people use today, each as the commands that pack a workspace and unpack it again.

All of them get the same environment: a HOME of their own in the scratch folder, so that no cache or
configuration of this user counts, and none survives.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.measure import Command, CommandFailed, run

VERSION_TIMEOUT_S = 30
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR")


@dataclass(frozen=True, slots=True)
class Site:
    """Where one contestant works: its repository (or archive) and its HOME, both its own."""

    repository: Path
    home: Path

    def env(self, **more: str) -> dict[str, str]:
        """PATH and language of this process, the site's HOME, and `more`."""
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        return {**kept, "HOME": str(self.home), **more}

    def clear(self) -> None:
        """Remove everything an earlier run left here: repository, caches, state."""
        for path in (self.repository, self.home):
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
        self.home.mkdir(parents=True)


class Contestant(Protocol):
    """One way to put a workspace away and to get it back.

    `prepare` is not timed and makes an empty repository. `pack` may be called again after a first pack,
    and is then the increment. `unpack` writes into `target`, which does not exist.
    """

    name: str

    def version(self) -> str | None:
        """As a table shows it; None if it is not installed."""
        ...

    def prepare(self, site: Site) -> None: ...

    def pack(self, workspace: Path, site: Site) -> Command: ...

    def packed(self, stdout: str) -> dict[str, object]:
        """What the last `pack` said about itself, to be given to the next `pack` and to `unpack`."""
        ...

    def unpack(self, target: Path, site: Site) -> Command: ...


def _first_version(argv: list[str]) -> str | None:
    """The first thing that looks like a version in the command's output, or None."""
    if shutil.which(argv[0]) is None:
        return None
    try:
        said = subprocess.run(argv, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+\.\d+(\.\d+)*", said)
    return found.group(0) if found else "unknown version"


def _shell(line: str, cwd: Path, env: dict[str, str]) -> Command:
    return Command(["bash", "-c", f"set -o pipefail; {line}"], cwd=cwd, env=env)


class _Plain:
    """What contestants without a repository of their own have in common."""

    def prepare(self, site: Site) -> None:
        site.clear()

    def packed(self, stdout: str) -> dict[str, object]:
        return {}


class Poorwill:
    """`poorwill snapshot` and `poorwill restore` with a local-directory store.

    A second `pack` names the first snapshot as its parent, so all second snapshots compare with the same.
    """

    name = "poorwill"

    def __init__(self, program: Path | None = None) -> None:
        self._program = program or Path(sys.executable).parent / "poorwill"
        self._first: str | None = None
        self._last: str | None = None

    def version(self) -> str | None:
        return importlib.metadata.version("poorwill") if self._program.exists() else None

    def prepare(self, site: Site) -> None:
        site.clear()
        site.repository.mkdir(parents=True)
        self._first = self._last = None

    def pack(self, workspace: Path, site: Site) -> Command:
        argv = [str(self._program), "snapshot", str(workspace), "--machine", "bench", "--json"]
        parent = ["--parent", self._first] if self._first else []
        return Command([*argv, *parent, "--store", site.repository.as_uri()], env=site.env())

    def packed(self, stdout: str) -> dict[str, object]:
        """The last JSON line: event "done", snapshot_id and the totals. CommandFailed if it is not there."""
        try:
            done = json.loads(stdout.strip().splitlines()[-1])
        except (IndexError, json.JSONDecodeError):
            done = None
        if not isinstance(done, dict) or done.get("event") != "done" or "snapshot_id" not in done:
            raise CommandFailed("poorwill snapshot ended without a JSON line of event 'done' and a snapshot_id")
        self._last = str(done["snapshot_id"])
        self._first = self._first or self._last
        return done

    def unpack(self, target: Path, site: Site) -> Command:
        if self._last is None:
            raise CommandFailed("poorwill has no snapshot to restore")
        argv = [str(self._program), "restore", self._last, str(target), "--json"]
        return Command([*argv, "--store", site.repository.as_uri()], env=site.env())


class Restic(_Plain):
    """restic with a local repository and its cache, as it comes."""

    name = "restic"

    def version(self) -> str | None:
        return _first_version(["restic", "version"])

    def _env(self, site: Site) -> dict[str, str]:
        return site.env(RESTIC_REPOSITORY=str(site.repository), RESTIC_PASSWORD="bench")

    def prepare(self, site: Site) -> None:
        site.clear()
        run(Command(["restic", "init", "--quiet"], env=self._env(site)))

    def pack(self, workspace: Path, site: Site) -> Command:
        return Command(["restic", "backup", "--quiet", "."], cwd=workspace, env=self._env(site))

    def unpack(self, target: Path, site: Site) -> Command:
        argv = ["restic", "restore", "--quiet", "latest", "--target", str(target)]
        return Command(argv, env=self._env(site))


class Borg(_Plain):
    """borg 1.x: lz4, no encryption."""

    name = "borg"

    def version(self) -> str | None:
        return _first_version(["borg", "--version"])

    def _env(self, site: Site) -> dict[str, str]:
        return site.env(
            BORG_BASE_DIR=str(site.home),
            BORG_REPO=str(site.repository),
            BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes",
        )

    def prepare(self, site: Site) -> None:
        site.clear()
        run(Command(["borg", "init", "--encryption", "none"], env=self._env(site)))

    def pack(self, workspace: Path, site: Site) -> Command:
        return Command(["borg", "create", "-C", "lz4", "::one", "."], cwd=workspace, env=self._env(site))

    def unpack(self, target: Path, site: Site) -> Command:
        target.mkdir(parents=True)
        return Command(["borg", "extract", "::one"], cwd=target, env=self._env(site))


class TarZstd(_Plain):
    """tar piped through zstd on two threads, and back."""

    def __init__(self, level: int) -> None:
        self.name = f"tar | zstd -{level} -T2"
        self._level = level

    def version(self) -> str | None:
        tar, zstd = _first_version(["tar", "--version"]), _first_version(["zstd", "--version"])
        return f"tar {tar}, zstd {zstd}" if tar and zstd else None

    def pack(self, workspace: Path, site: Site) -> Command:
        into = shlex.quote(str(site.repository))
        return _shell(f"tar -cf - . | zstd -{self._level} -T2 -q -o {into}", workspace, site.env())

    def unpack(self, target: Path, site: Site) -> Command:
        target.mkdir(parents=True)
        source = shlex.quote(str(site.repository))
        return _shell(f"zstd -dcq {source} | tar -xf -", target, site.env())


class Tar(_Plain):
    """Plain tar to a file, and back."""

    name = "tar"

    def version(self) -> str | None:
        return _first_version(["tar", "--version"])

    def pack(self, workspace: Path, site: Site) -> Command:
        return Command(["tar", "-cf", str(site.repository), "."], cwd=workspace, env=site.env())

    def unpack(self, target: Path, site: Site) -> Command:
        target.mkdir(parents=True)
        return Command(["tar", "-xf", str(site.repository)], cwd=target, env=site.env())


class Copy(_Plain):
    """cp -a: one thread, nothing checked, nothing compressed."""

    name = "cp -a"

    def version(self) -> str | None:
        return _first_version(["cp", "--version"])

    def pack(self, workspace: Path, site: Site) -> Command:
        return Command(["cp", "-a", str(workspace), str(site.repository)], env=site.env())

    def unpack(self, target: Path, site: Site) -> Command:
        return Command(["cp", "-a", str(site.repository), str(target)], env=site.env())


ALL: dict[str, Callable[[], Contestant]] = {
    "poorwill": Poorwill,
    "restic": Restic,
    "borg": Borg,
    "tar | zstd -1 -T2": lambda: TarZstd(1),
    "tar | zstd -3 -T2": lambda: TarZstd(3),
    "tar": Tar,
    "cp -a": Copy,
}


def versions() -> dict[str, str | None]:
    """The version of every contestant, None for those that are not installed."""
    return {name: make().version() for name, make in ALL.items()}
