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
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.markup import escape

from deployments.demo import workspace
from deployments.demo.stack import NAME, WORKSPACE, DemoError, Stack
from deployments.demo.tree_listing import Listing, differences, list_tree, tree_bytes
from deployments.servers.prefect_server import PrefectServerError
from deployments.servers.s3_server import S3ServerError
from poorwill.cli.output import human
from poorwill.errors import PoorwillError

if TYPE_CHECKING:
    from prefect import Flow

CHECKOUT = Path(__file__).resolve().parents[2]
LOG_NAME = "demo.log"
SHOWN_MAX = 20
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_S = 0.05
INTERRUPTED = 130
FAILED = 1
"""Also when the trees differ."""

_interrupted = threading.Event()
"""Prefect sometimes takes a KeyboardInterrupt for itself, and goes on."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit code. Errors become one line, and everything started is ended."""
    options = _parser().parse_args(argv)
    for name in SIGNALS:
        if signal.getsignal(name) != signal.SIG_IGN:
            signal.signal(name, _interrupt)
    sys.unraisablehook = _swallowed
    console, directory = Console(highlight=False, soft_wrap=True), Path(options.directory).absolute()
    try:
        with _only_one(directory), _quiet_logging(directory / LOG_NAME):
            code = _run(options, console, directory / "demo")
    except BaseException as error:
        code, line = _explained(error, directory)
        console.print(f"[red]demo:[/red] {escape(line)}")
    if code == FAILED:
        console.print(f"      the log is {escape(str(directory / LOG_NAME))}")
    return code


def _explained(error: BaseException, directory: Path) -> tuple[int, str]:
    """The exit code and the line for a person; raises what is nobody's mistake but ours."""
    # First, because whatever was interrupted may have made another error of it.
    if _interrupted.is_set() or isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; everything it started was ended and removed"
    if isinstance(error, (PoorwillError, DemoError, PrefectServerError, S3ServerError)):
        return int(getattr(error, "exit_code", FAILED)), str(error)
    if isinstance(error, OSError) and error.strerror:
        return FAILED, f"{error.filename or directory}: {error.strerror}"
    raise error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo", description="Hibernate and wake a workspace on this machine.")
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


def _interrupt(signum: int, frame: object) -> None:
    # While a flow runs, Prefect has its own for SIGTERM, which raises too.
    _interrupted.set()
    raise KeyboardInterrupt


def _swallowed(ignored: sys.UnraisableHookArgs) -> None:
    """A KeyboardInterrupt that hit a destructor is lost: the signal comes again."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        threading.Timer(AGAIN_S, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(ignored)


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Two demos would remove each other's files; the lock goes with the process."""
    directory.mkdir(parents=True, exist_ok=True)
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DemoError(f"another demo is running in {directory}: end it first") from None
    finally:
        os.close(held)


@contextmanager
def _quiet_logging(log_path: Path) -> Iterator[None]:
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


def _run(options: argparse.Namespace, console: Console, scratch: Path) -> int:
    stack = Stack(scratch, options.megabytes, options.port)
    try:
        with console.status("starting an S3 server and a Prefect server, making a workspace"):
            before = _prepare(stack, console)
        with stack.prefect.settings():
            code = _there_and_back(stack, console, before) or _video(stack, console, scratch.parent)
        if options.keep:
            _wait(stack, console)
        return code
    finally:
        for name in SIGNALS:
            signal.signal(name, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it behind
        stack.close()


def _prepare(stack: Stack, console: Console) -> Listing:
    began = time.monotonic()
    starting = stack.start_servers()
    before = stack.make_machine()
    kinds = f"{len(before)} entries, {human(tree_bytes(before))}"
    _done(console, f"machine {stack.instance} has a workspace of {kinds}, listed with all hashes")
    server = starting.result()
    _done(console, f"S3 server at {stack.s3.endpoint}, Prefect server at {server.ui_url} ({_since(began)})")
    with server.settings():
        stack.save_blocks()
    return before


def _there_and_back(stack: Stack, console: Console, before: Listing) -> int:
    from blocks.lookup import store_block
    from deployments.demo import report
    from flows.hibernate import hibernate
    from flows.wake import wake
    from poorwill.control.records import catalog
    from poorwill.snapshot.ids import new_snapshot_id

    old, snapshot_id = stack.instance, new_snapshot_id()
    parameters = {"store": NAME, "workspace": WORKSPACE}
    slept = _flow(console, hibernate, snapshot_id, machine=NAME, snapshot_id=snapshot_id, **parameters)
    _show_that_it_is_gone(stack, console, old)
    woke = _flow(console, wake, f"{NAME}/{snapshot_id}", snapshot=snapshot_id, provider=NAME, **parameters)
    _done(console, f"machine {woke['instance']} is awake")
    with closing(store_block(NAME).open()) as store:
        metadata = catalog.read(store, NAME, snapshot_id)
    report.print_report(console, metadata, slept, woke)
    return compared(console, before, list_tree(stack.workspace_of(woke["instance"])))


def _video(stack: Stack, console: Console, keep_in: Path) -> int:
    from deployments.demo.video import make_video

    shown = make_video(stack, console, keep_in)
    console.print(f"\nvideo         {escape(str(shown.video))}")
    console.print(f"contact sheet {escape(str(shown.contact_sheet))}")
    console.print(f"its URL       {escape(shown.url)} (while the servers are up: --keep)")
    return 0


def _flow(console: Console, flow: Flow[..., dict[str, Any]], run: str, **parameters: str) -> dict[str, Any]:
    """Run a flow here with live progress, and return its result; raises what it raised.

    run: the id under which the flow keeps its connection.
    """
    from deployments.demo.progress import ProgressView
    from tasks import sessions

    began = time.monotonic()
    console.print(f"[bold]{flow.name}[/bold]")
    with ProgressView(console, lambda: sessions.peek(run)):
        result = flow(**parameters)
        if _interrupted.is_set():
            raise KeyboardInterrupt
    _done(console, f"flow {flow.name} completed in {_since(began)}")
    return result


def _show_that_it_is_gone(stack: Stack, console: Console, instance: str) -> None:
    left, place = stack.instances(), stack.machines / instance
    if left or os.path.lexists(place):
        raise DemoError(f"{place} is still there after hibernating; the provider has {', '.join(left) or 'nothing'}")
    _done(console, f"machine {instance} is gone: the provider has no machines, and {place.name}/ is not on the disk")


def compared(console: Console, before: Listing, after: Listing) -> int:
    """Say whether the workspaces are equal, and in what they differ. Returns the exit code."""
    lines = differences(before, after)
    for line in lines[:SHOWN_MAX]:
        console.print(f"[red]differs[/red] {escape(line)}")
    if lines:
        console.print(f"[red]The workspaces differ in {len(lines)} things.[/red]")
        return FAILED
    what = "contents, modes, owners, times to the nanosecond, links, holes, extended attributes"
    console.print(f"[green]The two workspaces are equal:[/green] {len(after)} entries; {what}.")
    return 0


def _wait(stack: Stack, console: Console) -> None:
    console.print(f"\nPrefect UI    {stack.prefect.ui_url}/v2/runs")
    console.print(f"artifacts     {stack.prefect.ui_url}/v2/artifacts")
    console.print(f"objects       {stack.s3.root / stack.s3.bucket}")
    console.print(f"Press Ctrl-C (or: kill {os.getpid()}) to end both servers and remove {stack.scratch}.")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print()


def _done(console: Console, text: str) -> None:
    console.print(f" [green]✓[/green] {escape(text)}")


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"


def leave(code: int) -> NoReturn:
    sys.stdout.flush()
    # Prefect's threads are gone or do not matter: leaving them to be joined only takes time.
    os._exit(code)
