"""What the demo stands on: an S3 server, a Prefect server, the blocks, and one machine with a workspace."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from deployments.demo import workspace as demo_workspace
from deployments.demo.tree_listing import Listing, list_tree
from deployments.servers.prefect_server import PrefectServer
from deployments.servers.s3_server import S3Server

NAME = "demo"
"""The name of every block, of the machine and of the prefix in the bucket."""
WORKSPACE = "/workspace"
TREES = 3
"""Room on disk: the tree, the tree again, and less than that in the store."""
SERVERS_BYTES = 200_000_000


class DemoError(Exception):
    """What a person at the terminal has to know. One line."""


@dataclass(slots=True)
class Stack:
    """Everything lies below `scratch`, which is emptied first. `close` ends the servers and removes it."""

    scratch: Path
    megabytes: int = demo_workspace.MEGABYTES
    ui_port: int | None = None
    s3: S3Server = field(init=False)
    prefect: PrefectServer = field(init=False)
    instance: str = ""
    _threads: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.s3 = S3Server(self.scratch / "s3")
        self.prefect = PrefectServer(self.scratch / "prefect", port=self.ui_port, ui=True)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="prefect-start")

    def start_servers(self) -> Future[PrefectServer]:
        """Start both; the Prefect server goes on starting in the background. DemoError when the disk is too small."""
        shutil.rmtree(self.scratch, ignore_errors=True)  # what a demo that was killed has left
        self.scratch.mkdir(parents=True)
        needed = TREES * self.megabytes * 1_000_000 + SERVERS_BYTES
        free = shutil.disk_usage(self.scratch).free
        if free < needed:
            raise DemoError(f"{self.scratch} has {free / 1e9:.1f} GB free, the demo needs {needed / 1e9:.1f} GB")
        starting = self._threads.submit(self.prefect.start)
        self.s3.start()
        return starting

    def make_machine(self) -> Listing:
        """Create a machine, fill its workspace, and list it with all hashes: hibernating will destroy it."""
        from poorwill.providers.base import Wish
        from poorwill.providers.local import LocalProvider

        provider = LocalProvider(self.machines)
        self.instance = provider.create(NAME, Wish()).id
        workspace = self.workspace_of(self.instance)
        demo_workspace.make(workspace, self.megabytes)
        return list_tree(workspace)

    @property
    def machines(self) -> Path:
        return self.scratch / "machines"

    def workspace_of(self, instance: str) -> Path:
        """Where an instance's workspace lies on this host."""
        from poorwill.providers.local import LocalProvider

        return Path(LocalProvider(self.machines).endpoint(instance).path(WORKSPACE))

    def instances(self) -> list[str]:
        """The machines that the provider knows, by asking it."""
        from poorwill.providers.local import LocalProvider

        names = os.listdir(self.machines) if self.machines.is_dir() else []
        provider = LocalProvider(self.machines)
        return sorted(name for name in names if provider.exists(name))

    def save_blocks(self) -> None:
        """What an operator would configure in the UI: credentials, store, provider, machine."""
        from prefect_aws import AwsCredentials
        from pydantic import SecretStr

        from blocks import LocalProvider, Machine, S3Store

        keys = AwsCredentials(
            aws_access_key_id=self.s3.access_key,
            aws_secret_access_key=SecretStr(self.s3.secret_key),
            region_name="us-east-1",
        )
        keys.save(NAME)
        S3Store(bucket=self.s3.bucket, prefix=NAME, endpoint=self.s3.endpoint, credentials=keys).save(NAME)
        provider = LocalProvider(root=str(self.machines))
        provider.save(NAME)
        Machine(provider=provider, instance=self.instance).save(NAME)

    def close(self) -> None:
        """End both servers and remove everything. Idempotent."""
        self.prefect.stop()
        self.s3.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
