"""The commands that look at what a store holds. They import little: people wait for them."""

from __future__ import annotations

import argparse

from poorwill.cli.output import Output
from poorwill.control.records import catalog
from poorwill.remote.base import Host
from poorwill.store.address import open_store

UNFINISHED_SHOWN = 20


def ls(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    store = open_store(arguments.store)
    rows = []
    for machine, snapshot_id in catalog.names(store, arguments.machine):
        row = catalog.summary(catalog.read(store, machine, snapshot_id))
        output.event("snapshot", **row)
        rows.append(row)
    output.table(rows)
    for number, (machine, snapshot_id) in enumerate(catalog.unfinished(store, arguments.machine)):
        output.event("unfinished", machine=machine, snapshot_id=snapshot_id)
        if number < UNFINISHED_SHOWN:
            output.lines(
                [f"{snapshot_id:26} {machine:20} not ended: end it (--id {snapshot_id}), or delete it with --force"]
            )
    output.done(f"{len(rows)} snapshots in {store.url}", {"snapshots": len(rows)}, quiet=bool(rows))
    return 0


def show(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    store = open_store(arguments.store)
    metadata = catalog.find(store, arguments.id)
    output.document(metadata.document())
    return 0
