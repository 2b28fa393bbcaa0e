"""How long the stages of a run take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """Milliseconds per stage; a stage that is repeated adds up."""

    def __init__(self) -> None:
        self.timings_ms: dict[str, int] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.timings_ms[name] = self.timings_ms.get(name, 0) + round((time.monotonic() - began) * 1000)
