"""What the last look at a workspace says against destroying its machine, in words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from poorwill.engine.protocol.answers import Changes
from poorwill.engine.protocol.writers_said import IGNORE, short, way_on, who_writes
from poorwill.errors import Refused
from poorwill.snapshot import fields
from poorwill.snapshot.order import SnapshotOrder

KEPT = "the machine was not destroyed and goes on billing"
PATHS_SHOWN = 10
REASONS_SHOWN = 4


def check(found: Changes, order: SnapshotOrder) -> None:
    """Refused if the workspace differs from the snapshot, or if something can still write to it, and that matters."""
    writers = who_writes(found.writers, found.writers_count)
    facts = {"changed": list(found.paths), "writers": [fields.write(writer) for writer in found.writers]}
    if found.paths:
        shown = ", ".join(map(short, found.paths[:PATHS_SHOWN])) + (", .." if len(found.paths) > PATHS_SHOWN else "")
        also = f"; {writers}: {way_on(order.writers)}" if writers else ""
        raise Refused(
            f"the workspace of {order.machine} has changed since snapshot {order.snapshot_id} "
            f"({shown}): {KEPT}; hibernate it again{also}",
            **facts,
        )
    if order.writers == "ignore":
        return
    if writers:
        raise Refused(f"{writers} in the workspace of {order.machine}: {KEPT}: {way_on(order.writers)}", **facts)
    reasons = list(islice(_unseen(found), REASONS_SHOWN))
    if reasons:
        message = f"what is written in the workspace of {order.machine} may be missed: {'; '.join(reasons)}: {KEPT}"
        raise Refused(f"{message}: make that place quiet, exclude it, or {IGNORE}", **facts)


def _unseen(found: Changes) -> Iterator[str]:
    for blind in found.blind:
        if blind.shared:
            yield f"{short(blind.path)} ({blind.why})"
        elif found.hidden:
            unseen = f"the times of {short(blind.path)} do not tell of all writes"
            yield f"{hidden_said(found.hidden)}, and {unseen} ({blind.why})"


def hidden_said(hidden: int) -> str:
    """How many processes of the machine could not be looked into."""
    return f"{hidden} {'process' if hidden == 1 else 'processes'} could not be looked into"
