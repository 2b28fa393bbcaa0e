"""The flow that takes a snapshot of a machine and leaves it running."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from blocks.lookup import machine_block
from flows.snapshot_run import Request, own_snapshot_id, take
from flows.stages import failed, threads
from poorwill import defaults
from poorwill.errors import PoorwillError
from poorwill.providers.base import checked_path
from poorwill.snapshot import limits
from poorwill.snapshot.choices import Codec, OnUnreadable, VerifyMode
from poorwill.snapshot.order import SnapshotOrder


@flow(name="snapshot", task_runner=threads(limits.PARTS), flow_run_name="snapshot-{machine}", persist_result=False)
def snapshot(
    machine: str,
    store: str,
    workspace: str = defaults.WORKSPACE,
    snapshot_id: str | None = None,
    parent: str | None = None,
    codec: Codec = defaults.CODEC,
    portable: bool = False,
    parts: Annotated[int, Field(ge=1, le=limits.PARTS)] = limits.PARTS,
    exclude: Sequence[str] = (),
    verify: VerifyMode = defaults.VERIFY,
    stop_command: str | None = None,
    on_unreadable: OnUnreadable = defaults.ON_UNREADABLE,
    name: str | None = None,
    tags: Sequence[str] = (),
    allow_shrink: bool = False,
) -> dict[str, Any]:
    """Compress a machine's workspace into a store and prove that it can be read back; the machine goes on.

    A run that was cut off is continued by another one with the same `snapshot_id`: only what is missing is sent.

    Args:
        machine: Name of the machine's block, for example `trainer`.
        store: Name of a store block, for example `weights`.
        workspace: What to keep: a directory on the machine.
        snapshot_id: To continue a run that was cut off: the id from its log. Empty: a new snapshot.
        parent: Snapshot to borrow unchanged data from. Empty: the machine's latest. `none`: borrow nothing.
        codec: How to compress: `auto` takes what is fastest on the machine, `ans` is ANS everywhere.
        portable: Use no codec that needs a GPU to decode.
        parts: How many objects to send in parallel, at most 32.
        exclude: Globs of what to leave out, for example `*.tmp` or `cache/**`.
        verify: `stored` reads every stored byte back, `full` decodes everything as well, `sample` reads a few
            chunks, which proves less.
        stop_command: Shell command to run in the workspace before, for example to stop services. It is run again
            if the machine was lost while it ran.
        on_unreadable: Whether files that cannot be read fail the snapshot or are left out and listed.
        name: What to call the snapshot, for example `before the upgrade`.
        tags: Tags, which retention can go by, for example `keep`.
        allow_shrink: Whether it is meant that the workspace is empty, another one than before, or has lost more than
            half of what the last snapshot has; else retention keeps that one as well.
    """
    try:
        block = machine_block(machine)
        order = SnapshotOrder(
            machine=block.name, snapshot_id=snapshot_id or own_snapshot_id(), workspace=checked_path(workspace),
            parent=parent, codec=codec, portable=portable, parts=parts, exclude=tuple(exclude), verify=verify,
            skip_unreadable=on_unreadable == "skip", name=name, tags=tuple(tags),
            writers="ignore", allow_shrink=allow_shrink,
        )  # fmt: skip
        return take(Request(machine, store, order, False, stop_command), block)
    except PoorwillError as error:
        return failed(error)
