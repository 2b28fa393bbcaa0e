"""The program `poorwill`: from its arguments to its exit code."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import signal
import sys
from typing import NoReturn

from poorwill.cli import hosts, plugins
from poorwill.cli.arguments import parser
from poorwill.cli.output import Output
from poorwill.errors import PoorwillError


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one command and exit with its code; errors become one line, never a traceback."""
    _open_streams()
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="poorwill: %(message)s")
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv else ""
    plugin = command in plugins.COMMANDS
    arguments = argparse.Namespace(json=False) if plugin else parser(command).parse_args(argv)
    output = Output(json_lines=arguments.json)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = plugins.run(command, argv[1:]) if plugin else _run(arguments, output)
    except PoorwillError as error:
        output.failed(error)
        code = error.exit_code
    except KeyboardInterrupt:
        output.interrupted()
        code = 130
    if output.lost:
        logging.error("standard output could not be written: %s", output.lost)
        code = code or 1
    # Engine and transfer threads are gone or do not matter: leaving them to be joined only takes time.
    os._exit(code)


def _run(arguments: argparse.Namespace, output: Output) -> int:
    host = hosts.host_of(arguments)
    # While it is imported here, the engine imports the same beside us.
    commands = importlib.import_module(f"poorwill.cli.{arguments.module}")
    return int(getattr(commands, arguments.run)(arguments, output, host))


def _open_streams() -> None:
    """Open /dev/null for closed streams, before another file gets their number; make any file name printable."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends what Ctrl-C ends, without a question."""


def _interrupt(signum: int, frame: object) -> None:
    raise Terminated
