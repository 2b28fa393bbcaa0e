"""What flow tests work in: blocks, a machine, a store, and flows in processes that can be killed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

import blocks
from blocks.lookup import save_machine
from deployments.servers.prefect_server import PrefectServer
from flows.slots import slot_name
from poorwill.providers.base import Wish
from poorwill.providers.local import LocalProvider
from poorwill.store.local import LocalStore
from tests.support import dying_flow
from tests.support.workspaces import make_large

CHILD_TIMEOUT_S = 90.0
SNAPSHOT_ID = "20260102T030405Z-0000abcd"


class World:
    """Blocks `<name>-store`, `<name>-provider` and, after `machine()`, `<name>`."""

    def __init__(self, server: PrefectServer, folder: Path, name: str) -> None:
        self.server, self.name = server, name
        self.folder = folder
        self.store = LocalStore(folder / "store")
        self.provider = LocalProvider(folder / "machines")
        self.store_name, self.provider_name = f"{name}-store", f"{name}-provider"
        blocks.LocalStore(directory=str(folder / "store")).save(self.store_name)
        blocks.LocalProvider(root=str(folder / "machines")).save(self.provider_name)

    def machine(self, make: Callable[[Path], object] = make_large) -> Path:
        """A machine whose workspace `make` filled. Returns the workspace."""
        instance = self.provider.create(f"by-hand-{self.name}", Wish()).id
        source = blocks.LocalProvider.load(self.provider_name)
        save_machine(self.name, blocks.Machine(provider=source, instance=instance, name=self.name))
        workspace = self.workspace(instance)
        make(workspace)
        return workspace

    def workspace(self, instance: str) -> Path:
        return Path(self.provider.endpoint(instance).path("/workspace"))

    def block(self) -> blocks.Machine:
        return blocks.Machine.load(self.name)

    def keys(self, prefix: str) -> list[str]:
        return [found.key for found in self.store.list(prefix)]

    def parts(self) -> dict[str, float]:
        """Key -> time of every part in the store: a part that was sent again has another time."""
        return {found.key: found.modified_s for found in self.store.list("parts/")}

    def free_slot(self) -> None:
        """What the end of a lease does for a run that was killed, without the wait for it."""
        with get_client(sync_client=True) as client:
            try:
                client.delete_global_concurrency_limit_by_name(slot_name(self.name))
            except ObjectNotFound:
                return

    def hibernation(self, **other: Any) -> dict[str, Any]:
        """The parameters of `hibernate` and, with `destroy` taken out, of `snapshot`."""
        return {"machine": self.name, "store": self.store_name, "snapshot_id": SNAPSHOT_ID, **other}

    def killed_at(self, flow: str, parameters: dict[str, Any], moment: str) -> None:
        """Run a flow in a process that kills itself at `moment` (see dying_flow.py), and make sure that it did."""
        log_path = self.folder / "child.log"
        child = dying_flow.fork(flow, parameters, moment, server=self.server.env(), log_path=log_path)
        try:
            child.join(CHILD_TIMEOUT_S)
            status = child.exitcode
        finally:
            child.kill()
            child.join(10)
        assert status == -signal.SIGKILL, f"ended with {status}: {log_path.read_text()[-3000:]}"
        self.free_slot()
