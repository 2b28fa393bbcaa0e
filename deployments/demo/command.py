"""Puts a machine to sleep and wakes it, and makes a video from a picture, on this machine, with real parts.

    python -m deployments.demo [--keep] [--megabytes N]

It starts an S3 server and a Prefect server of its own, makes a machine of the local provider with a workspace
full of model weights, runs the flows `hibernate` and `wake`, and compares the two workspaces in full. Then it
deploys the flow `generate` to a pool of type `gpu`, starts a worker, and has it make a video with a tiny model of
random weights. It removes everything it made but the video and its contact sheet. Exit code 0 only if the workspaces
are equal and the video is there.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from deployments.demo import workspace
from deployments.demo.interrupts import Interrupts
from deployments.demo.run import FAILED, Demo
from deployments.demo.sandbox import Sandbox
from poorwill.errors import PoorwillError
from poorwill.file_lock import FileLock, lock_directory

CHECKOUT = Path(__file__).resolve().parents[2]
LOG_NAME = "demo.log"
INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit code. Errors become one line, and everything started is ended."""
    options = _parser().parse_args(argv)
    interrupts, console = Interrupts(), Console(highlight=False, soft_wrap=True)
    directory = Path(options.directory).absolute()
    try:
        with _lock(directory), _logging_to(directory / LOG_NAME):
            sandbox = Sandbox(directory / "demo", options.megabytes, options.port)
            try:
                code = Demo(sandbox, console, interrupts).run(keep=options.keep)
            finally:
                interrupts.ignore()  # a second Ctrl-C must not leave half of it behind
                sandbox.close()
    except BaseException as error:
        code, line = _explained(error, directory, interrupts)
        console.print(f"[red]demo:[/red] {escape(line)}")
    if code == FAILED:
        console.print(f"      the log is {escape(str(directory / LOG_NAME))}")
    return code


def _explained(error: BaseException, directory: Path, interrupts: Interrupts) -> tuple[int, str]:
    """The exit code and the line for a person; raises an error that is a fault of the demo itself."""
    # First, because whatever was interrupted may have made another error of it.
    if interrupts.received or isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; everything it started was ended and removed"
    if isinstance(error, PoorwillError):
        return error.exit_code, error.message
    if isinstance(error, OSError) and error.strerror:
        return FAILED, f"{error.filename or directory}: {error.strerror}"
    raise error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deployments.demo", description="Hibernate and wake a workspace on this machine."
    )
    parser.add_argument("--keep", action="store_true", help="leave the servers up until Ctrl-C, to look at the runs")
    parser.add_argument("--megabytes", type=_megabytes, default=workspace.MEGABYTES, help="size of the workspace")
    parser.add_argument("--port", type=int, help="port of the Prefect server and its UI; default: a free one")
    parser.add_argument(
        "--directory", default=CHECKOUT / ".poorwill", help="where everything is kept; default: .poorwill"
    )
    return parser


def _megabytes(text: str) -> int:
    least = workspace.MEGABYTES_MIN
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number, at least {least}")
    return int(text)


def _lock(directory: Path) -> FileLock:
    """Two demos would remove each other's files."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = lock_directory(directory)
    if lock is None:
        raise PoorwillError(f"another demo is running in {directory}: end it first")
    return lock


@contextmanager
def _logging_to(log_path: Path) -> Iterator[None]:
    """Everything that is logged goes to a file: the terminal belongs to the demo."""
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    import prefect.main  # noqa: F401  # sets up its loggers

    handler = logging.FileHandler(log_path, mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.captureWarnings(True)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
