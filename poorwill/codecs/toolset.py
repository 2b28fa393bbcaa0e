"""What one process codes with: the codecs of its CPU and, where there are GPUs, theirs."""

from __future__ import annotations

from poorwill.codecs import registry
from poorwill.codecs.base import Codec
from poorwill.codecs.sampler import Chooser


class Toolset:
    """Makes codecs and choosers, which belong to one thread each. Thread-safe."""

    def codec(self, number: int) -> Codec:
        """A codec by its id. Unsupported if this process cannot decode it."""
        return registry.make(number)

    def chooser(self, policy: str, *, portable: bool = False) -> Chooser:
        """What encodes chunks by a policy. portable: with codecs alone that any CPU decodes. UsageError."""
        return Chooser(policy)
