"""Processes that have files of a workspace open, or mapped, and file systems to mount for a test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OPENS = "files = [open(path, 'r+b') for path in sys.argv[1:]]"
READS = "files = [open(path, 'rb') for path in sys.argv[1:]]"
MAPS = """
files = [open(path, 'r+b') for path in sys.argv[1:]]
maps = [mmap.mmap(file.fileno(), 0) for file in files]
for file, area in zip(files, maps):
    area[0:1] = area[0:1]  # the page is dirty from here on
    file.close()
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
_WAITS = """
print('ready', flush=True)
for line in sys.stdin:
    area = maps[0]
    area[:len(line) - 1] = line[:-1].encode()
    print('written', flush=True)
"""


class Writer:
    """A running process; `write` changes the first file it has mapped."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._expect("ready")

    @property
    def pid(self) -> int:
        return self.process.pid

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        self._expect("written")

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def _expect(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == word + "\n"


_MAPPER = """
import mmap, sys
areas = {}
for line in sys.stdin:
    what, path, text = line.rstrip("\\n").split("\\t")
    if what == "map":
        with open(path, "r+b") as file:
            areas[path] = mmap.mmap(file.fileno(), 0)
    elif what == "poke":
        areas[path][: len(text)] = text.encode()
    else:
        areas.pop(path).close()
    print("done", flush=True)
"""


class Mapper:
    """A process that maps files, changes them through the mappings and gives them up, as it is told."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _MAPPER]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.mapped: list[Path] = []

    def map(self, path: Path) -> None:
        self._tell("map", path)
        self.mapped.append(path)

    def poke(self, path: Path, text: str) -> None:
        self._tell("poke", path, text)

    def unmap(self, path: Path) -> None:
        self._tell("unmap", path)
        self.mapped.remove(path)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=30)

    def _tell(self, what: str, path: Path, text: str = "") -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what}\t{path}\t{text}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


@contextmanager
def writer(code: str, *paths: Path, prefix: tuple[str, ...] = ()) -> Iterator[Writer]:
    """A process that runs `code` with those paths, then waits. prefix: what starts it."""
    program = f"import mmap, signal, sys\n{code}\n{_WAITS}"
    command = [*prefix, sys.executable, "-c", program, *map(str, paths)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Writer(process)
    finally:
        process.kill()
        process.communicate(timeout=30)


@contextmanager
def mounted(path: Path, kind: str, *options: str, source: str = "none") -> Iterator[Path]:
    """A file system mounted there; the test is skipped on a host that may not mount one."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", kind, *(["-o", ",".join(options)] if options else []), source, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode != 0:
        pytest.skip(f"this host cannot mount {kind}: {done.stderr if done is not None else 'not root'}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def ext4_image(path: Path, *options: str) -> str:
    """A file with an empty ext4, to be mounted by `-o loop`; the test is skipped where none can be made."""
    with open(path, "wb") as file:
        file.truncate(16 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", *options, str(path)], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 can be made here: {error}")
    return str(path)
