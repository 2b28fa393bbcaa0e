"""The list of providers. A new one is a line here, a folder beside this file, a block in blocks/providers.py, a page.

Importing this file imports none of them: each brings libraries of its own.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from poorwill.providers.base import Provider


@dataclass(frozen=True, slots=True)
class Entry:
    """One provider: its block's slug and name, what makes it, and the page of docs/ that shows how it is used.

    `bills`: whether somebody asks money for its machines.
    """

    slug: str
    title: str
    module: str
    factory: str
    page: str
    bills: bool = True

    def make(self, *arguments: Any, **settings: Any) -> Provider:
        """A provider of this kind, from what its factory takes. ImportError if a library of it is not installed."""
        factory = attrgetter(self.factory)(importlib.import_module(f"poorwill.providers.{self.module}"))
        provider: Provider = factory(*arguments, **settings)
        return provider


LOCAL = Entry(
    "poorwill-local-provider", "Poorwill local provider", "local", "LocalProvider", "operating.md", bills=False
)
VAST = Entry("poorwill-vast-provider", "Poorwill vast.ai provider", "vast.provider", "VastProvider", "vast.md")
EC2 = Entry("poorwill-ec2-provider", "Poorwill EC2 provider", "ec2.provider", "Ec2Provider.connect", "ec2.md")
OWN = Entry("poorwill-own-machines", "Poorwill own machines", "own", "OwnMachines", "operating.md", bills=False)

PROVIDERS = (LOCAL, VAST, EC2, OWN)
