"""Wheels for a machine that cannot reach a package index: downloaded here, once, and chosen for its Python."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from poorwill.errors import HostUnfit, UsageError

ENTRIES_MAX = 16
"""How many sets of wheels the cache holds; the least recently used is removed first."""
DOWNLOAD_TIMEOUT_S = 300.0
GLIBC_MINOR_MIN = 17
"""manylinux2014: no wheel of ours is older."""
_CREDENTIALS = re.compile(r"//[^/\s@]*@")  # of a private package index, in its address
_UNFINISHED = ".downloading-"
_UNFINISHED_S_MAX = 86400.0
REQUIREMENTS = "requirements.txt"
"""Beside the wheels: pip takes hashes from a file alone."""
_SETTINGS = ("--quiet", "--no-input", "--disable-pip-version-check", "--timeout", "15", "--retries", "2")


@dataclass(frozen=True, slots=True)
class Target:
    """A CPython on Linux. `glibc_minor` is the Y of glibc 2.Y; None for musl."""

    python: tuple[int, int]
    machine: str
    glibc_minor: int | None

    @property
    def platforms(self) -> list[str]:
        """Platform tags of wheels that run there, the most demanding first (PEP 600)."""
        if self.glibc_minor is None:
            return [f"musllinux_1_{minor}_{self.machine}" for minor in (2, 1)]
        minors = range(self.glibc_minor, GLIBC_MINOR_MIN - 1, -1)
        return [*(f"manylinux_2_{minor}_{self.machine}" for minor in minors), f"manylinux2014_{self.machine}"]

    @property
    def environment(self) -> dict[str, str]:
        """The values for the markers in requirements (PEP 508)."""
        version = f"{self.python[0]}.{self.python[1]}"
        return {
            "python_version": version, "python_full_version": f"{version}.0", "implementation_name": "cpython",
            "implementation_version": f"{version}.0", "platform_python_implementation": "CPython",
            "platform_machine": self.machine, "platform_system": "Linux", "sys_platform": "linux", "os_name": "posix",
        }  # fmt: skip

    def tags(self) -> frozenset[Tag]:
        major, minor = self.python
        return frozenset(cpython_tags(self.python, [f"cp{major}{minor}"], self.platforms)) | frozenset(
            compatible_tags(self.python, f"cp{major}{minor}", self.platforms)
        )


def resolved(lines: Sequence[str], target: Target) -> list[str]:
    """The exact pins among `lines` that hold on `target`: with their hashes, without their markers.

    Markers are evaluated here: `pip download --python-version` evaluates them for the Python that runs pip.
    """
    pins = []
    for line in lines:
        wanted, *hashes = line.split(" --hash=")
        one = Requirement(wanted)
        if one.marker is None or one.marker.evaluate(target.environment):
            pins.append(" --hash=".join([f"{one.name}{one.specifier}", *hashes]))
    return pins


def without_hashes(pins: Sequence[str]) -> list[str]:
    return [pin.partition(" --hash=")[0] for pin in pins]


def choose(folder: Path, pins: Sequence[str], target: Target) -> list[Path]:
    """One wheel for each pin out of a folder of wheels; HostUnfit names the pins without one that fits."""
    tags, found = target.tags(), dict[str, Path]()
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, _, offered = parse_wheel_filename(path.name)
        except ValueError:  # not the name of a wheel
            continue
        if offered & tags:
            found[f"{name}=={version}"] = path
    exact = [Requirement(pin) for pin in without_hashes(pins)]
    names = [f"{canonicalize_name(one.name)}{one.specifier}" for one in exact]
    missing = [name for name in names if name not in found]
    if missing:
        raise HostUnfit(
            f"{folder} has no wheel for Python {target.python[0]}.{target.python[1]} on {target.platforms[0]} of: "
            f"{', '.join(missing)}"
        )
    return [found[name] for name in names]


def download(pins: Sequence[str], target: Target, cache: Path | None = None) -> list[Path]:
    """Wheels of `pins`, out of the cache or by this side's pip with this side's configuration.

    Where pins have hashes, pip takes no other file. HostUnfit with pip's last words if that fails. A set of wheels
    appears in the cache whole or not at all.
    """
    root = cache if cache is not None else _cache()
    key = hashlib.sha256("\n".join(pins).encode()).hexdigest()[:12]
    folder = root / f"py{target.python[0]}{target.python[1]}-{target.platforms[0]}-{key}"
    with contextlib.suppress(HostUnfit, OSError):  # not there, or not whole
        wheels = choose(folder, pins, target)
        os.utime(folder)
        return wheels
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _prune(root)
        fresh = Path(tempfile.mkdtemp(dir=root, prefix=_UNFINISHED))
        try:
            _run_pip(pins, target, fresh)
            choose(fresh, pins, target)
            _publish(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise UsageError(
            f"the cache of wheels {root} cannot be written: {error.strerror}; set XDG_CACHE_HOME"
        ) from None
    return choose(folder, pins, target)


def _publish(fresh: Path, folder: Path) -> None:
    try:
        fresh.rename(folder)
    except OSError:
        # Another process was faster, or the set there is not whole. Sets never change: moving one away does no harm.
        folder.rename(fresh.with_name(fresh.name + "-old"))
        fresh.rename(folder)
        shutil.rmtree(fresh.with_name(fresh.name + "-old"), ignore_errors=True)


def _run_pip(pins: Sequence[str], target: Target, folder: Path) -> None:
    (folder / REQUIREMENTS).write_text("\n".join(pins))
    platforms = [word for platform in target.platforms for word in ("--platform", platform)]
    command = [
        sys.executable, "-m", "pip", "download", *_SETTINGS, "--only-binary=:all:", "--no-deps", "--dest", str(folder),
        "--python-version", f"{target.python[0]}.{target.python[1]}", "--implementation", "cp", *platforms,
        "--requirement", REQUIREMENTS,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            cwd=folder, timeout=DOWNLOAD_TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise HostUnfit(f"pip did not download the engine's wheels within {DOWNLOAD_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise HostUnfit("pip download on this side: " + last_words(done.stderr.decode("utf-8", "replace")))


def last_words(output: str) -> str:
    """The errors of pip's output, else its end, on one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return _CREDENTIALS.sub("//***@", " | ".join((errors or lines)[-3:]))[-600:] or "no output"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "poorwill" / "wheels"


def _prune(root: Path) -> None:
    """Make room for one more set, and remove what killed downloads left behind."""
    now = time.time()
    age_s = {path: now - path.stat().st_mtime for path in root.iterdir() if path.is_dir()}
    sets = sorted((path for path in age_s if not path.name.startswith(_UNFINISHED)), key=lambda path: age_s[path])
    for path, age in age_s.items():
        if path in sets[ENTRIES_MAX - 1 :] or (path not in sets and age > _UNFINISHED_S_MAX):
            shutil.rmtree(path, ignore_errors=True)
