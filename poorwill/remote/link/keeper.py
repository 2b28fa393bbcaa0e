"""`python -m poorwill.remote.link.keeper NAME [--start] [-- COMMAND...]`: what one connection to a machine runs there.

With --start it leaves a daemon (keeper_daemon.py) that runs the engine and outlives this connection; without, it goes
to the daemon of that name. Then it passes bytes between its stdin and stdout and the daemon until either ends.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from poorwill.remote.link import frames
from poorwill.remote.link.frames import No, NoEngine
from poorwill.remote.link.keeper_daemon import PATIENCE_S, KeeperDaemon
from poorwill.remote.link.kept_engine import KeptEngine
from poorwill.remote.link.run_directory import RunDirectory

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def main() -> None:
    asked, command = _arguments()
    try:
        if NAME.fullmatch(asked.name) is None:
            raise NoEngine(No.UNFIT, f"{asked.name[:80]!r} cannot name an engine: use letters, digits, '_' and '-'")
        directory = RunDirectory.of_environment()
        if asked.start:
            daemon = _start(directory, asked.name, command or _engine(), asked.patience_s)
        else:
            daemon = directory.attach(asked.name)
    except NoEngine as answer:
        _write(frames.MARKER + frames.no(answer.code, answer.reason))
        sys.exit(3)
    _write(frames.MARKER)
    _pump(daemon)
    # The other direction's thread may be in a read that never ends.
    os._exit(0)


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    """The keeper's own, and the command after `--`."""
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(prog="poorwill.remote.link.keeper")
    parser.add_argument("name")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--patience-s", type=float, default=PATIENCE_S)
    return parser.parse_args(given[:at]), given[at + 1 :]


def _engine() -> list[str]:
    isolated = ["-I"] if sys.flags.isolated else []
    return [sys.executable, *isolated, "-m", "poorwill.engine"]


def _start(directory: RunDirectory, name: str, command: list[str], patience_s: float) -> socket.socket:
    """Leave a daemon with a new engine; returns the connection to it. NoEngine."""
    with directory.starting():
        claim = directory.claim(name)
        try:
            directory.sweep(keep=name)
            listener = directory.listen(name)
        except BaseException:
            claim.release()
            raise
    ours, theirs = socket.socketpair()
    if not _detached():
        listener.close()
        theirs.close()
        os.close(claim.fd)
        return ours
    try:
        ours.close()
        KeeperDaemon(KeptEngine(command, claim.fd), claim, listener, theirs, patience_s).run()
    finally:
        os._exit(0)


def _detached() -> bool:
    """Fork a daemon, without terminal, stdin and stdout. True in the daemon."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    return True


def _pump(daemon: socket.socket) -> None:
    """Pass bytes both ways until the daemon hangs up, also while stdout is not read, or after stdin has ended."""
    out = threading.Thread(target=_copy, args=(daemon.recv, _write, daemon), name="to-stdout", daemon=True)
    out.start()
    stdin = partial(os.read, 0)
    threading.Thread(target=_copy, args=(stdin, daemon.sendall, daemon), name="to-daemon", daemon=True).start()
    hung_up = select.poll()
    hung_up.register(daemon, 0)
    hung_up.poll()
    out.join(1.0)


def _copy(read: Callable[[int], bytes], write: Callable[[bytes], None], daemon: socket.socket) -> None:
    """Until `read` is at its end, or either breaks: then hang up."""
    with suppress(OSError):
        while data := read(64 << 10):
            write(data)
    with suppress(OSError):
        daemon.shutdown(socket.SHUT_RDWR)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
