"""The pipeline that stays loaded between the runs of a process: loading one takes minutes, so it is done once."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from poorwill.media.model import Model

if TYPE_CHECKING:
    from poorwill.media.loading import LoadedPipeline

log = logging.getLogger(__name__)


class PipelineCache:
    """Holds one pipeline, the last that was asked for. Thread-safe: a caller waits while another one loads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._pipeline: LoadedPipeline | None = None

    @property
    def model(self) -> Model | None:
        """The record of the loaded pipeline."""
        return self._model

    def get(self, model: Model, load: Callable[[Model], LoadedPipeline]) -> LoadedPipeline:
        """The pipeline of `model`: the loaded one if the records are equal, else `load(model)`.

        The other one is dropped first, for two do not fit. What `load` raises passes, and nothing is loaded then.
        """
        with self._lock:
            if self._pipeline is None or self._model != model:
                self._drop()
                self._pipeline = load(model)
                self._model = model
            return self._pipeline

    def clear(self) -> None:
        """Forget the pipeline and give its memory back. Idempotent."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._pipeline is None:
            return
        from poorwill.media.device import release_memory  # imports torch

        pipe, compiled = weakref.ref(self._pipeline.pipe), self._pipeline.plan.compile
        self._model = self._pipeline = None
        release_memory(compiled=compiled)
        if pipe() is not None:
            log.warning("the last pipeline is still referred to: its memory is not free for the next one")
