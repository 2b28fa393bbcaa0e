"""What the demo runs on: an S3 server, a Prefect server, the blocks, and one machine with a workspace."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from deployments.demo import workspace as demo_workspace
from deployments.demo.tree_listing import Listing, list_tree
from deployments.servers.prefect_server import PrefectServer
from deployments.servers.s3_server import S3Server
from poorwill.errors import HostUnfit
from poorwill.providers.base import Wish
from poorwill.providers.local import LocalProvider

NAME = "demo"
"""The name of every block, of the machine and of the prefix in the bucket."""
WORKSPACE = "/workspace"
TREES = 3
"""Room on disk: the tree, the tree again, and less than that in the store."""
SERVERS_BYTES = 200_000_000


class Sandbox:
    """Everything lies below `folder`, which is emptied first. `close` ends the servers and removes it."""

    def __init__(self, folder: Path, megabytes: int, ui_port: int | None = None) -> None:
        self.folder, self._megabytes = folder, megabytes
        self.machines = folder / "machines"
        self.provider = LocalProvider(self.machines)
        self.instance = ""
        self.s3 = S3Server(folder / "s3")
        self.prefect = PrefectServer(folder / "prefect", port=ui_port, ui=True)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="prefect-start")

    def start_servers(self) -> Future[PrefectServer]:
        """Start both; the Prefect server goes on starting in the background. HostUnfit when the disk is too small."""
        shutil.rmtree(self.folder, ignore_errors=True)  # what a demo that was killed has left
        self.folder.mkdir(parents=True)
        needed = TREES * self._megabytes * 1_000_000 + SERVERS_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise HostUnfit(f"{self.folder} has {free / 1e9:.1f} GB free, the demo needs {needed / 1e9:.1f} GB")
        starting = self._threads.submit(self.prefect.start)
        self.s3.start()
        return starting

    def make_machine(self) -> Listing:
        """Create a machine, fill its workspace, and list it with all hashes: hibernating will destroy it."""
        self.instance = self.provider.create(NAME, Wish()).id
        workspace = self.workspace_of(self.instance)
        demo_workspace.make(workspace, self._megabytes)
        return list_tree(workspace)

    def workspace_of(self, instance: str) -> Path:
        """Where an instance's workspace lies on this host."""
        return Path(self.provider.endpoint(instance).path(WORKSPACE))

    def instances(self) -> list[str]:
        """The machines that the provider has."""
        return sorted(instance.id for instance in self.provider.list_by_label(NAME))

    def save_blocks(self) -> None:
        """What an operator would configure in the UI: credentials, store, provider, machine."""
        from prefect_aws import AwsCredentials
        from pydantic import SecretStr

        import blocks

        keys = AwsCredentials(
            aws_access_key_id=self.s3.access_key,
            aws_secret_access_key=SecretStr(self.s3.secret_key),
            region_name="us-east-1",
        )
        keys.save(NAME)
        blocks.S3Store(bucket=self.s3.bucket, prefix=NAME, endpoint=self.s3.endpoint, credentials=keys).save(NAME)
        provider = blocks.LocalProvider(root=str(self.machines))
        provider.save(NAME)
        blocks.Machine(provider=provider, instance=self.instance).save(NAME)

    def close(self) -> None:
        """End both servers and remove everything. Idempotent."""
        self.prefect.stop()
        self.s3.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)
