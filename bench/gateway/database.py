"""A PostgreSQL server of its own for a measurement, in a folder that goes away with it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measure import CommandFailed

PROGRAMS = Path("/usr/lib/postgresql")
"""Where Debian has them, by version."""
TIMEOUT_S = 60
USER = "postgres"


def programs() -> Path | None:
    """The folder of the newest PostgreSQL here, None if there is none."""
    found = [folder / "bin" for folder in PROGRAMS.glob("*") if (folder / "bin" / "initdb").is_file()]
    on_path = shutil.which("initdb")
    found.sort(key=lambda folder: float(folder.parent.name))
    return found[-1] if found else Path(on_path).parent if on_path else None


@contextmanager
def postgresql(below: Path) -> Iterator[str]:
    """The URL of an empty database, as SQLAlchemy names it, in a new folder `below` that its own user may enter.
    CommandFailed if it cannot be started."""
    found = programs()
    if found is None:
        raise CommandFailed("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(prefix="poorwill-postgresql-", dir=below) as place:
        folder, port = Path(place) / "data", _free_port()
        if os.geteuid() == 0:  # it refuses to run as root
            account = pwd.getpwnam(USER)
            os.chown(place, account.pw_uid, account.pw_gid)
        _run(found / "initdb", "-D", folder, "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={place}"
        _run(found / "pg_ctl", "-D", folder, "-l", Path(place) / "log", "-o", options, "-w", "start")
        try:
            _run(found / "createdb", "-h", "127.0.0.1", "-p", port, "-U", USER, "prefect")
            yield f"postgresql+asyncpg://{USER}@127.0.0.1:{port}/prefect"
        finally:
            _run(found / "pg_ctl", "-D", folder, "-m", "immediate", "-w", "stop")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(program: Path, *words: object) -> None:
    user = USER if os.geteuid() == 0 else None
    try:
        subprocess.run(
            [str(program), *map(str, words)],
            check=True,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise CommandFailed(f"{program.name}: {lines[-1]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(f"{program.name}: {error}") from None
