"""Whether a snapshot may take the place of what its machine had before, or is nothing, half of it, or another place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from poorwill.control.records import catalog, intents
from poorwill.errors import Refused
from poorwill.snapshot import shrinkage
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.surroundings import Surroundings, Woken, another_root, departed
from poorwill.store.base import Store

EARLIER_MAX = 1000


def check_succession(store: Store, metadata: Metadata, keep: str) -> None:
    """Refused if losing the machine would leave much less than there was, or something else, saying how to insist.

    It is compared with its parent, with what the machine was woken from, and with the machine's other snapshots since
    that, or since one that is meant: with the last one before a fall, and all of them for their directories and, where
    they are of the same instance, what is mounted. What cannot be read is not compared: it cannot be woken either.
    keep: what became of the machine, for the message.
    """
    now, wakes = metadata.extent, _wakes(store, metadata)
    woken = metadata.surroundings.woken if metadata.surroundings is not None else None
    said = partly_woken(metadata.workspace, [woken] if woken is not None else wakes)
    if now.is_nothing:
        said.append(f"there is nothing in {metadata.workspace}, no file and no byte")
    else:
        origins = {wake.snapshot_id for wake in (*wakes, woken) if wake is not None}
        earlier = _earlier(store, metadata, origins)
        before = shrinkage.last_before_a_fall(now, [other.extent for other in earlier])
        said += next(filter(None, (_elsewhere(metadata, other, origins) for other in reversed(earlier))), [])
        said += shrinkage.lost(now, before) if before is not None else []
        for origin in _read(store, sorted(filter(None, {*origins, metadata.parent}))):
            said += shrinkage.lost(now, origin.extent)
    if said:
        raise Refused(
            f"snapshot {metadata.snapshot_id}: {'; '.join(dict.fromkeys(said))}: {keep}; {shrinkage.HOW_TO_INSIST}"
        )


def check_surroundings(metadata: Metadata, now: Surroundings | None, keep: str) -> None:
    """Refused if the directory that was packed is another by now, or was woken in part, saying how to insist."""
    if now is None:
        return
    said = partly_woken(metadata.workspace, filter(None, [now.woken]))
    if metadata.surroundings is not None:
        said += another_root(metadata.surroundings.root, now.root)
    if said:
        raise Refused(f"{metadata.workspace}: {'; '.join(said[:10])}: {keep}; {shrinkage.HOW_TO_INSIST}")


def partly_woken(workspace: str, wakes: Iterable[Woken]) -> list[str]:
    """That a workspace lacks what was not named when it was woken, in words."""
    return [
        f"{workspace} was woken only in part (include) from snapshot {woken.snapshot_id}, and lacks the rest"
        for woken in wakes
        if woken.partial
    ]


def _elsewhere(metadata: Metadata, other: Metadata, origins: set[str]) -> list[str]:
    said = shrinkage.moved(metadata.extent, other.extent)
    now, before = metadata.surroundings, other.surroundings
    here = other.instance == metadata.instance != "" and other.snapshot_id not in origins
    return said or (departed(before.root, now.root, other.snapshot_id) if here and now and before else [])


def _earlier(store: Store, metadata: Metadata, origins: set[str]) -> list[Metadata]:
    """The machine's other snapshots, oldest first, from the last one on that is meant, by somebody's word or since the
    machine was woken from it. Those since then may be of hibernations that were refused, and hide nothing."""
    found: list[Metadata] = []
    for snapshot_id, other in catalog.newest_first(store, metadata.machine):
        if other is not None and metadata.snapshot_id not in (snapshot_id, other.converted_from):
            found.append(other)
            if other.allow_shrink or other.snapshot_id in origins or len(found) == EARLIER_MAX:
                break
    return found[::-1]


def _wakes(store: Store, metadata: Metadata) -> list[Woken]:
    """What the machine was woken from, by the store's records; only of a machine that is on record."""
    with suppress(*catalog.UNREADABLE):
        return [
            Woken(intent.machine, intent.snapshot_id, intent.partial)
            for intent in intents.of_machine(store, metadata.machine)
            if intent.woken and intent.instance and intent.instance == metadata.instance
        ]
    return []


def _read(store: Store, snapshot_ids: Iterable[str]) -> Iterator[Metadata]:
    for snapshot_id in snapshot_ids:
        with suppress(*catalog.UNREADABLE):
            yield catalog.find(store, snapshot_id)
