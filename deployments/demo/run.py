"""The demo itself: to sleep and back, and a video."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from deployments.demo.interrupts import Interrupts
from deployments.demo.sandbox import NAME, WORKSPACE, Sandbox
from deployments.demo.tree_listing import Listing, differences, list_tree, tree_bytes
from deployments.demo.video import make_video
from poorwill.errors import PoorwillError
from poorwill.snapshot.sizes import human

if TYPE_CHECKING:
    from prefect import Flow

SHOWN_MAX = 20
FAILED = 1
"""Also when the trees differ."""


class Demo:
    """Prefect is imported only while it runs: its logging has to be set up before."""

    def __init__(self, sandbox: Sandbox, console: Console, interrupts: Interrupts) -> None:
        self._sandbox, self._console, self._interrupts = sandbox, console, interrupts

    def run(self, *, keep: bool) -> int:
        """Returns the exit code. keep: then wait for a signal."""
        with self._console.status("starting an S3 server and a Prefect server, making a workspace"):
            before = self._prepare()
        with self._sandbox.prefect.settings():
            code = self._there_and_back(before)
            if code == 0:
                make_video(self._sandbox, self._console, self._sandbox.folder.parent)
        if keep:
            self._wait()
        return code

    def _prepare(self) -> Listing:
        began, sandbox = time.monotonic(), self._sandbox
        starting = sandbox.start_servers()
        before = sandbox.make_machine()
        kinds = f"{len(before)} entries, {human(tree_bytes(before))}"
        self._done(f"machine {sandbox.instance} has a workspace of {kinds}, listed with all hashes")
        server = starting.result()
        self._done(f"S3 server at {sandbox.s3.endpoint}, Prefect server at {server.base_url} ({_since(began)})")
        with server.settings():
            sandbox.save_blocks()
        return before

    def _there_and_back(self, before: Listing) -> int:
        from blocks.lookup import store_block
        from deployments.demo import report
        from flows.hibernate import hibernate
        from flows.wake import wake
        from poorwill.control.records import catalog
        from poorwill.snapshot.ids import new_snapshot_id

        old, snapshot_id = self._sandbox.instance, new_snapshot_id()
        parameters = {"store": NAME, "workspace": WORKSPACE}
        slept = self._flow(hibernate, snapshot_id, machine=NAME, snapshot_id=snapshot_id, **parameters)
        self._show_that_it_is_gone(old)
        woke = self._flow(wake, f"{NAME}/{snapshot_id}", snapshot=snapshot_id, provider=NAME, **parameters)
        self._done(f"machine {woke['instance']} is awake")
        with closing(store_block(NAME).open()) as store:
            metadata = catalog.read(store, NAME, snapshot_id)
        report.print_report(self._console, metadata, slept, woke)
        return compared(self._console, before, list_tree(self._sandbox.workspace_of(woke["instance"])))

    def _flow(self, flow: Flow[..., dict[str, Any]], run: str, **parameters: str) -> dict[str, Any]:
        """Run a flow here with live progress, and return its result; raises what it raised.

        run: the id under which the flow keeps its connection.
        """
        from deployments.demo.progress import ProgressView
        from tasks.sessions import sessions

        began = time.monotonic()
        self._console.print(f"[bold]{flow.name}[/bold]")
        with ProgressView(self._console, lambda: sessions.get(run)):
            result = flow(**parameters)
            self._interrupts.check()
        self._done(f"flow {flow.name} completed in {_since(began)}")
        return result

    def _show_that_it_is_gone(self, instance: str) -> None:
        left, place = self._sandbox.instances(), self._sandbox.machines / instance
        if left or os.path.lexists(place):
            raise PoorwillError(f"{place} is still there; the provider has {', '.join(left) or 'no machine'}")
        self._done(f"machine {instance} is gone: the provider has no machines, and {place.name}/ is not on the disk")

    def _wait(self) -> None:
        print_line, sandbox = self._console.print, self._sandbox
        print_line(f"\nPrefect UI    {sandbox.prefect.base_url}/v2/runs")
        print_line(f"artifacts     {sandbox.prefect.base_url}/v2/artifacts")
        print_line(f"objects       {sandbox.s3.root / sandbox.s3.bucket}")
        print_line(f"Press Ctrl-C (or: kill {os.getpid()}) to end both servers and remove {sandbox.folder}.")
        try:
            signal.pause()
        except KeyboardInterrupt:
            print_line()

    def _done(self, text: str) -> None:
        self._console.print(f" [green]✓[/green] {escape(text)}")


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


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
