"""What the generations of one process share: the loaded pipeline, and the request to stop.

Prefect hands a flow its parameters and nothing else, and loads the flow's own file anew for each run. So the entry
point of a process (worker/warm_process_main.py) makes one state and runs its flows inside `using(state)`; a flow finds
it by `current()`. This context variable is the only process-wide holder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from poorwill.media.pipeline_cache import PipelineCache
from poorwill.media.stop import Stop


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One for each process, which works on one run at a time."""

    stop: Stop = field(default_factory=Stop)
    pipelines: PipelineCache = field(default_factory=PipelineCache)


_STATE: ContextVar[ProcessState | None] = ContextVar("poorwill.media.process_state", default=None)


@contextmanager
def using(state: ProcessState) -> Iterator[ProcessState]:
    """Make `state` the one that `current` returns, in this context."""
    token = _STATE.set(state)
    try:
        yield state
    finally:
        _STATE.reset(token)


def current() -> ProcessState:
    """The state of this process; a new one where its entry point made none, as for a flow that is run by itself."""
    return _STATE.get() or ProcessState()
