"""Installs the engine: runs on the machine, on any Python from 3.10 on with nothing but its standard library.

ship.py sends this source over stdin, then a line of JSON (the order) and the files that the line names. The answer
is one line on stdout, after a mark. An engine is built in a hidden directory and then renamed, so that it is there
whole or not at all, whenever this is killed and however many run at once.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path
from typing import IO, Any

MARK = "@poorwill@"
BUILDING = ".building-"
UNFINISHED_S_MAX = 86400.0
PROOF_S = 60.0
ENGINE = re.compile(r".+-[0-9a-f]{12}")
PIP = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('pip', None, '__main__', True)"
PROOF = """
import importlib, json, sys
from importlib import metadata
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(d.name + "==" + d.version for d in metadata.distributions())))
"""
ONLINE = ("--timeout", "8", "--retries", "1", "--only-binary=:all:")
# Settings of the user's pip that say where to install, or what not to: images for GPUs set PIP_CONSTRAINT. Those that
# say where packages are found are kept.
NOT_OURS = ("PIP_CONSTRAINT", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_PYTHON", "PIP_DRY_RUN")


class Failure(Exception):
    """An installation that failed. `kind`: transfer, packages, home, disk, python, engine or other."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind


class Building:
    """The hidden directory in which an engine is built. It is locked for as long: without a lock `sweep` removes it."""

    def __init__(self, engines: Path) -> None:
        for _ in range(5):
            self.path = engines / (BUILDING + secrets.token_hex(8))
            self.lock_path = lock_of(self.path)
            self.lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o600)
            # A sweep between the two calls removes the file, and the lock of a removed file excludes nobody.
            if locked(self.lock) is not False and self.lock_path.exists():
                self.path.mkdir(mode=0o700)
                return
            os.close(self.lock)
        raise Failure("other", f"the lock files in {engines} are removed as often as they are made")

    def __enter__(self) -> Building:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.lock_path.unlink(missing_ok=True)
        os.close(self.lock)


class Installation:
    """One order, from its files to an engine in place."""

    def __init__(self, order: dict[str, Any], engines: Path, building: Building) -> None:
        self.order, self.engines, self.building = order, engines, building
        self.ends_s: float = time.monotonic() + order["deadline_s"]
        self.place = engines / order["name"]
        self.files = building.path / "files"
        self.engine = building.path / "engine"
        self.python = self.engine / "venv" / "bin" / "python"
        self.log: list[str] = []

    def run(self) -> dict[str, Any]:
        """The answer: where the engine is, and whether it was there already."""
        reused = whole(self.place, self.order)
        if not reused:
            self.check_space(self.order["free_bytes_min"])
            self.build()
            reused = not self.put_in_place()
        self.remove_others()
        python = str(self.place / "venv" / "bin" / "python")
        return {"python": python, "home": str(self.engines.parent), "reused": reused, "log": self.log}

    def check_space(self, bytes_min: int) -> None:
        disk = os.statvfs(self.engines)
        free = disk.f_bavail * disk.f_frsize
        if free < bytes_min:
            raise Failure(
                "disk", f"{free / 1e9:.1f} GB are free at {self.engines}, {bytes_min / 1e9:.1f} GB are needed"
            )

    def build(self) -> None:
        self.engine.mkdir()
        try:
            venv.create(self.engine / "venv", with_pip=False, symlinks=True)
        except (OSError, subprocess.SubprocessError, ImportError) as error:
            raise Failure("python", f"{sys.executable} cannot make a virtual environment: {error}") from None
        base = {"base": str(self.engine / "venv"), "platbase": str(self.engine / "venv")}
        shutil.unpack_archive(self.files / "engine.zip", sysconfig.get_path("purelib", "posix_prefix", base))
        self.pip(self.order["packages"], self.left_s())
        self.gpu_packages()
        marker = {
            "digest": self.order["digest"], "version": self.order["version"], "python": sys.version.split()[0],
            "packages": self.prove(), "gpu": bool(self.order["gpu_packages"]), "log": self.log,
        }  # fmt: skip
        (self.engine / "ready").write_text(json.dumps(marker))

    def pip(self, packages: list[str], timeout_s: float) -> None:
        if not packages:
            return
        pip = self.building.path / "pip"
        if not pip.exists():
            shutil.unpack_archive(self.files / "pip.zip", pip)
        environment = {key: value for key, value in os.environ.items() if key not in NOT_OURS}
        places: tuple[str, ...] = ONLINE
        if not self.order["online"]:
            environment = {key: value for key, value in environment.items() if not key.startswith("PIP_")}
            environment["PIP_CONFIG_FILE"] = os.devnull
            places = ("--no-index", "--find-links", str(self.files))
        # A configuration file may name constraints as well; the environment is stronger.
        environment.update(PIP_CONSTRAINT=os.devnull, TMPDIR=str(self.building.path))
        # Pip takes hashes from a file alone, and then nothing that has another one.
        requirements = self.building.path / "requirements.txt"
        requirements.write_text("\n".join(packages))
        status, output = self.python_run(
            ["-c", PIP, str(pip), "install", "--quiet", "--no-deps", "--no-compile", "--no-user", "--no-cache-dir",
             "--no-input", "--disable-pip-version-check", *places, "--requirement", str(requirements)],
            timeout_s, environment,
        )  # fmt: skip
        if status != 0:
            raise Failure("disk" if "No space left" in output else "packages", output)

    def gpu_packages(self) -> None:
        """An engine is faster with them, and runs without them: a failure is only logged."""
        if not self.order["gpu_packages"]:
            return
        try:
            self.check_space(self.order["gpu_free_bytes_min"])
            self.pip(self.order["gpu_packages"], self.left_s() / 2)
            self.log.append(f"GPU packages: {', '.join(line.split()[0] for line in self.order['gpu_packages'])}")
        except Failure as failure:
            self.log.append(f"without GPU packages: {last_lines(str(failure))}")

    def prove(self) -> list[str]:
        """Check that the engine's modules and their C libraries import here. Returns the packages it found."""
        status, output = self.python_run(["-c", PROOF, *self.order["proof"]], PROOF_S, dict(os.environ))
        try:
            packages: list[str] = json.loads(output.strip().splitlines()[-1])
        except (ValueError, IndexError):
            status = status or 1
        if status != 0:
            raise Failure("engine", f"the engine does not start there, status {status}: {last_lines(output)}")
        return packages

    def python_run(self, words: list[str], timeout_s: float, environment: dict[str, str]) -> tuple[int, str]:
        # It inherits the lock: a pip that outlives this process is not swept away while it writes.
        try:
            done = subprocess.run(
                [str(self.python), "-I", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=timeout_s, pass_fds=(self.building.lock,), cwd=self.building.path,
                env={**environment, "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 1, f"it did not end within {timeout_s:.0f} s"
        return done.returncode, done.stdout.decode("utf-8", "replace")[-65536:]

    def put_in_place(self) -> bool:
        """Rename the engine into its place; False if another installation was faster."""
        for _ in range(5):
            try:
                os.rename(self.engine, self.place)
                return True
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            if whole(self.place, self.order):
                return False
            discard(self.place)
        raise Failure("other", f"{self.place} is made again as often as it is removed")

    def remove_others(self) -> None:
        """Engines of other versions, except those that run."""
        for other in self.engines.iterdir():
            if other == self.place or other.name.startswith(BUILDING) or not ENGINE.fullmatch(other.name):
                continue
            if running(other):
                self.log.append(f"{other.name} runs and stays")
            else:
                discard(other)
                self.log.append(f"{other.name} removed")

    def left_s(self) -> float:
        return max(1.0, self.ends_s - time.monotonic())


def last_lines(output: str) -> str:
    return " | ".join(output.splitlines()[-3:])


def lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def locked(lock: int) -> bool | None:
    """Take a lock: whether nobody else holds it; None if the file system has no locks."""
    # Not poorwill.file_lock: this file is sent alone, before the package.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def discard(path: Path) -> None:
    """Remove an engine; it is renamed first, so that half of it never counts as one."""
    away = path.with_name(BUILDING + secrets.token_hex(8))
    try:
        os.rename(path, away)
    except OSError:
        return  # gone, or somebody else's
    if away.is_dir() and not away.is_symlink():
        shutil.rmtree(away, ignore_errors=True)
    else:
        away.unlink(missing_ok=True)


def sweep(engines: Path) -> None:
    """Remove what installations left that do not run any more."""
    for path in engines.glob(BUILDING + "*"):
        built = path.with_name(path.name.removesuffix(".lock"))
        try:
            lock = os.open(lock_of(built), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            continue
        try:
            free = locked(lock)
            if free or (free is None and time.time() - os.stat(lock).st_mtime > UNFINISHED_S_MAX):
                shutil.rmtree(built, ignore_errors=True)
                lock_of(built).unlink(missing_ok=True)
        finally:
            os.close(lock)


def whole(place: Path, order: dict[str, Any]) -> bool:
    try:
        marker = json.loads((place / "ready").read_text())
        command = [str(place / "venv" / "bin" / "python"), "-I", "-c", ""]
        same: bool = marker["digest"] == order["digest"]
        return same and subprocess.run(command, stdin=subprocess.DEVNULL, timeout=20).returncode == 0
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
        return False


def running(engine: Path) -> bool:
    """Whether a process that was started from it runs, by /proc."""
    start = os.fsencode(engine) + b"/"
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if entry.read_bytes().startswith(start):
                return True
        except OSError:
            continue
    return False


def engines_of(home: str) -> Path:
    """~/.poorwill/engine, made if needed, for this user alone."""
    root = Path(home) / ".poorwill"
    if not home.startswith("/"):
        raise Failure("home", "HOME is not set")
    try:
        for folder in (root, root / "engine"):
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid != os.geteuid():
                raise Failure("home", f"{folder} belongs to another user")
            folder.chmod(0o700)
    except OSError as error:
        raise Failure("home", f"{root} cannot be made: {error.strerror}") from None
    return root / "engine"


def receive(stream: IO[bytes], files: list[tuple[str, int]], folder: Path) -> None:
    folder.mkdir()
    for name, size in files:
        with open(folder / name, "xb") as file:
            left = size
            while left:
                data = stream.read(min(left, 1 << 20))
                if not data:
                    raise Failure("transfer", f"the transfer ended inside {name}, {left} bytes are missing")
                file.write(data)
                left -= len(data)


def install(stream: IO[bytes]) -> dict[str, Any]:
    try:
        order = json.loads(stream.readline(1 << 20))
        engines = engines_of(os.environ.get("HOME", ""))
        sweep(engines)
        with Building(engines) as building:
            receive(stream, order["files"], building.path / "files")
            signal.alarm(int(order["deadline_s"] + 2 * PROOF_S))
            return Installation(order, engines, building).run()
    except Failure as failure:
        return {"failed": failure.kind, "words": str(failure)[-4000:]}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return {"failed": "disk" if full else "other", "words": f"{error.filename or ''} {error.strerror}"}
    except ValueError as error:
        return {"failed": "other", "words": f"the order is malformed: {error}"}


def main() -> None:
    os.umask(0o077)
    signal.alarm(600)  # for the order and its files to arrive
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, lambda *_: sys.exit(1))  # by way of the code that tidies up
    answer = install(sys.stdin.buffer)
    print(f"{MARK} answer {json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
