"""The block of one machine: which instance it is now, or which snapshot it sleeps in."""

from __future__ import annotations

from typing import Literal

from prefect.blocks.core import Block
from pydantic import Field

from blocks.providers import LocalProvider


class Machine(Block):
    """One machine through all its sleeps: it keeps its name, while its instances come and go.

    The flows keep it up to date: `wake` sets the instance, `hibernate` clears it once it is gone.
    """

    _block_type_name = "Poorwill machine"
    _block_type_slug = "poorwill-machine"

    provider: LocalProvider = Field(description="Where its instances come from.")
    instance: str = Field(default="", description="The provider's id of the instance it is now; empty while it sleeps.")
    status: Literal["awake", "asleep", "waking"] = Field(
        default="awake", description="What the flows last did with it."
    )
    snapshot: str = Field(default="", description="The snapshot it was last put to sleep in, or woken from.")
    name: str = Field(
        default="", description="The name its snapshots are kept under in stores. Empty: the name of this block."
    )
