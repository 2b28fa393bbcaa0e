"""Whether an engine can get at a store at all."""

from __future__ import annotations

from poorwill.errors import UsageError
from poorwill.remote.base import Host
from poorwill.store.base import Store


def check_reachable(store: Store, host: Host) -> None:
    """UsageError for a store in a directory of this computer and an engine on another one."""
    if store.url.startswith("file:") and not host.here:
        raise UsageError(
            f"{host.describe()} cannot reach {store.url}, a directory of this computer: use an S3 store for machines "
            "behind SSH"
        )
