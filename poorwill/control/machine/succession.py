"""Whether a snapshot may take the place of what its machine had before, or is nothing, half of it, or another place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from poorwill.control.records import catalog, intents
from poorwill.errors import Corrupt, NotFound, Refused, Unsupported
from poorwill.snapshot import shrinkage
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.surroundings import Surroundings, Woken, another_root
from poorwill.store.base import Store

EARLIER_MAX = 32
UNREADABLE = (NotFound, Corrupt, Unsupported)


def check_succession(store: Store, metadata: Metadata, keep: str) -> None:
    """Refused if losing the machine would leave much less than there was, or something else, saying how to insist.

    It is compared with its parent, with what the machine was woken from, and with its newest other snapshot; while that
    is itself no likely successor, with the one before. What cannot be read is not compared: it cannot be woken either.
    keep: what became of the machine, for the message.
    """
    now, said = metadata.extent, list[str]()
    if now.is_nothing:
        said.append(f"there is nothing in {metadata.workspace}, no file and no byte")
    else:
        for other in _earlier(store, metadata):
            said += shrinkage.moved(now, other.extent) or shrinkage.lost(now, other.extent)
        for origin in _origins(store, metadata):
            said += shrinkage.lost(now, origin.extent)
    if metadata.surroundings is not None:
        said += partly_woken(metadata.workspace, metadata.surroundings.woken)
    if said:
        raise Refused(
            f"snapshot {metadata.snapshot_id}: {'; '.join(dict.fromkeys(said))}: {keep}; {shrinkage.HOW_TO_INSIST}"
        )


def check_surroundings(metadata: Metadata, now: Surroundings | None, keep: str) -> None:
    """Refused if the directory that was packed is another by now, or was woken in part, saying how to insist."""
    if now is None:
        return
    said = partly_woken(metadata.workspace, now.woken)
    if metadata.surroundings is not None:
        said += another_root(metadata.surroundings.root, now.root)
    if said:
        raise Refused(f"{metadata.workspace}: {'; '.join(said[:10])}: {keep}; {shrinkage.HOW_TO_INSIST}")


def partly_woken(workspace: str, woken: Woken | None) -> list[str]:
    """That a workspace lacks what was not named when it was woken, in words."""
    if woken is None or not woken.partial:
        return []
    return [f"{workspace} was woken only in part (include) from snapshot {woken.snapshot_id}, and lacks the rest"]


def _earlier(store: Store, metadata: Metadata) -> Iterator[Metadata]:
    """The newest other snapshot; while one is no successor and nobody said that it is meant, the one before, too."""
    others = (
        found
        for snapshot_id, found in catalog.newest_first(store, metadata.machine)
        if found is not None and metadata.snapshot_id not in (snapshot_id, found.converted_from)
    )
    later: Metadata | None = None
    for found in islice(others, EARLIER_MAX):
        if later is not None and (later.allow_shrink or shrinkage.is_successor(later.extent, found.extent)):
            return
        yield found
        later = found


def _origins(store: Store, metadata: Metadata) -> Iterator[Metadata]:
    """The parent, and what the machine was woken from, by the engine's word and by the store's record of the wake."""
    named = {metadata.parent} if metadata.parent is not None else set[str]()
    if metadata.surroundings is not None and metadata.surroundings.woken is not None:
        named.add(metadata.surroundings.woken.snapshot_id)
    with suppress(*UNREADABLE):
        woken = [intent for intent in intents.of_machine(store, metadata.machine) if intent.woken and intent.instance]
        named |= {intent.snapshot_id for intent in woken if intent.instance == metadata.instance}
    for snapshot_id in sorted(named):
        with suppress(*UNREADABLE):
            yield catalog.find(store, snapshot_id)
