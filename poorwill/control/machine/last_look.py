"""What the last look at a workspace says against destroying its machine, in words."""

from __future__ import annotations

from collections.abc import Iterator

from poorwill.engine.protocol.answers import Changes, writers_said
from poorwill.errors import Refused
from poorwill.snapshot import fields
from poorwill.snapshot.order import SnapshotOrder

KEPT = "the machine was not destroyed and goes on billing"
IGNORE = 'insist with writers="ignore" (--writers ignore)'


def check(found: Changes, order: SnapshotOrder) -> None:
    """Refused if the workspace differs from the snapshot, or if something can still write to it, and that matters."""
    writers = writers_said(found.writers, found.writers_count)
    facts = {"changed": list(found.paths), "writers": [fields.write(writer) for writer in found.writers]}
    if found.paths:
        also = f"; {writers}: {_way_out(order)}" if writers else ""
        raise Refused(
            f"the workspace of {order.machine} has changed since snapshot {order.snapshot_id} "
            f"({', '.join(found.paths)}): {KEPT}; hibernate it again{also}",
            **facts,
        )
    if order.writers == "ignore":
        return
    if writers:
        raise Refused(f"{writers} in the workspace of {order.machine}: {KEPT}: {_way_out(order)}", **facts)
    reasons = list(_unseen(found))
    if reasons:
        message = f"what is written in the workspace of {order.machine} may be missed: {'; '.join(reasons)}: {KEPT}"
        raise Refused(f"{message}: make that place quiet, exclude it, or {IGNORE}", **facts)


def _way_out(order: SnapshotOrder) -> str:
    if order.writers == "stop":
        return f"it was asked to end and did not, or must not be: stop it, exclude what it writes, or {IGNORE}"
    if order.writers == "ignore":
        return "stop it first"
    return f'stop it, or let hibernate do that with writers="stop" (--writers stop), or {IGNORE}'


def _unseen(found: Changes) -> Iterator[str]:
    for blind in found.blind:
        if blind.shared:
            yield f"{blind.path} ({blind.why})"
        elif found.hidden:
            yield f"{hidden_said(found.hidden)}, and the times of {blind.path} do not tell of all writes ({blind.why})"


def hidden_said(hidden: int) -> str:
    """How many processes of the machine could not be looked into."""
    return f"{hidden} {'process' if hidden == 1 else 'processes'} could not be looked into"
