"""What time it is by a store's own clock, the only one that its objects' times are compared with."""

from __future__ import annotations

import secrets

from poorwill.control.records import catalog
from poorwill.errors import NotFound, StoreUnavailable
from poorwill.snapshot import keys
from poorwill.snapshot.keys import Owner
from poorwill.store.base import Store

TRIES = 5


def store_time_s(store: Store) -> float:
    """The time by the store's own clock, which is that of an object just written. Only this is compared with others."""
    for _ in range(TRIES):
        key = keys.clock(secrets.token_hex(8))
        store.put(key, b"\n")
        try:
            return store.head(key).modified_s
        except NotFound:
            pass  # somebody removes what others have left
        finally:
            store.delete(key)
    raise StoreUnavailable(f"{store.describe()}: objects vanish as soon as they are written", prefix=keys.TRASH)


def commit_time_ms(store: Store, owner: Owner) -> int:
    """When a snapshot is first committed whose manifest was just written: POSIX milliseconds by the store's clock.

    It is behind all that were committed before, also if that clock was set back meanwhile.
    """
    now_ms = round(store.head(keys.manifest(*owner)).modified_s * 1000)
    for snapshot_id, found in catalog.newest_first(store, owner[0]):
        if snapshot_id == owner[1] and found is not None and found.committed_at_ms is not None:
            return found.committed_at_ms
        if snapshot_id != owner[1] and found is not None:
            return max(now_ms, found.ranked_ms + 1)
    return now_ms
