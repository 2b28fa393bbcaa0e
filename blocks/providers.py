"""Blocks that say where machines come from. `open()` gives the provider of poorwill."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field

from poorwill.providers.base import Provider
from poorwill.providers.local import LocalProvider as DirectoryProvider


class LocalProvider(Block):
    """Machines that are directories of the host that runs the flows: for trying out, and for one's own host."""

    _block_type_name = "Poorwill local provider"
    _block_type_slug = "poorwill-local-provider"

    root: str = Field(description="Absolute path of the directory that holds the machines.")

    def open(self) -> Provider:
        """The provider. UsageError."""
        return DirectoryProvider(self.root)


AnyProvider = LocalProvider
PROVIDERS = (LocalProvider,)
