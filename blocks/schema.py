"""The JSON schema of a block, computed once: Prefect asks for it hundreds of times to save one block."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from prefect.blocks.core import Block


class SteadySchema(Block):
    """A block whose schema is remembered: saving one that holds others costs seconds of CPU without that."""

    _schemas: ClassVar[dict[Any, dict[str, Any]]] = {}

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """A new copy for each caller."""
        asked = (cls, args, tuple(sorted(options.items())))
        if asked not in cls._schemas:
            cls._schemas[asked] = super().model_json_schema(*args, **options)
        return copy.deepcopy(cls._schemas[asked])
