"""The codecs of one process: those of its CPU and, where there are GPUs, theirs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from poorwill.codecs import registry
from poorwill.codecs.base import Codec
from poorwill.codecs.chooser import Chooser, LayoutCodec
from poorwill.codecs.gpu.decision import Decision, decide, measure
from poorwill.codecs.openzl import OpenZL
from poorwill.codecs.planes import Planes
from poorwill.errors import Unsupported

if TYPE_CHECKING:
    from poorwill.codecs.gpu.gpu_pool import Gpus

log = logging.getLogger(__name__)


def gpus_of_this_machine() -> Gpus:
    """Opened when first needed: the libraries take seconds and the device's memory. Unsupported without one."""
    from poorwill.codecs.gpu.gpu_pool import open_gpus

    return open_gpus()


class Toolset:
    """Makes codecs and choosers, each for one thread. Thread-safe. GPUs are opened once, when they are needed."""

    def __init__(
        self,
        open_gpus: Callable[[], Gpus] | None = None,
        threads: int = 0,
        decide: Callable[[dict[str, int], int], tuple[str, str]] = decide,
    ) -> None:
        """threads: how many code at a time; 0: one for each core. decide: GPU or CPU, and why, from their rates."""
        self._open, self._threads, self._by_rates = open_gpus, threads or len(os.sched_getaffinity(0)), decide
        self._lock = threading.RLock()
        self._gpus: Gpus | None = None
        self._no_gpu_because = "" if open_gpus else "this process uses no GPU"
        self._decisions: dict[tuple[str, bool], Decision] = {}
        self.on_gpu = False
        """Whether a GPU has been asked to code."""

    def codec(self, number: int) -> Codec:
        """A codec by its id. Unsupported, with the reason, if this process cannot decode it."""
        if number != registry.NVCOMP_ANS:
            return registry.make(number)
        from poorwill.codecs.gpu.nvcomp import NvcompAns

        gpus = self.gpus()
        if gpus is None:
            raise Unsupported(
                f"codec '{registry.name(number)}' needs {registry.needs(number)} and a GPU: {self._no_gpu_because}"
            )
        self.on_gpu = True
        return NvcompAns(gpus)

    def chooser(self, policy: str, *, portable: bool = False) -> Chooser:
        """What encodes chunks by a policy. portable: with codecs alone that any CPU decodes. UsageError."""
        if policy not in ("auto", "ans") or self.decision(policy, portable).by == "cpu":
            return Chooser(policy)
        self.on_gpu = True
        return Chooser(policy, self._on_gpu(portable))

    def gpus(self) -> Gpus | None:
        """The GPUs; None without any."""
        with self._lock:
            if self._open is not None and self._gpus is None and not self._no_gpu_because:
                try:
                    self._gpus = self._open()
                except Unsupported as error:
                    self._no_gpu_because = error.message
            return self._gpus

    def decision(self, policy: str, portable: bool) -> Decision:
        """Who codes by this policy; measured at the first call, which takes a second where there is a GPU."""
        with self._lock:
            if (policy, portable) not in self._decisions:
                made = self._decide(policy, portable)
                self._decisions[policy, portable] = made
                log.info("%s codes (%s): %s", made.by.upper(), made.codec, made.reason)
            return self._decisions[policy, portable]

    def coding(self, policy: str, *, portable: bool) -> dict[str, Any] | None:
        """Who codes by this policy, as JSON, and how many chunks a GPU was to code and did not in this process; None
        while nothing was coded by it."""
        with self._lock:
            decision = self._decisions.get((policy, portable))
            if decision is None:
                return None
            fell_back = self._gpus.fell_back if self._gpus is not None else 0
            warning = self._gpus.warning if self._gpus is not None else ""
            return {**asdict(decision), "fell_back": fell_back, "warning": warning}

    def _decide(self, policy: str, portable: bool) -> Decision:
        on_cpu = OpenZL.name if policy == "ans" else Planes.name
        if policy == "ans" and portable:
            return Decision("cpu", on_cpu, "portable ANS is coded by a CPU")
        gpus = self.gpus()
        if gpus is None:
            return Decision("cpu", on_cpu, self._no_gpu_because)
        codec = self._on_gpu(portable)
        versions = {"nvcomp": str(gpus.libraries.nvcomp.__version__), "cupy": str(gpus.libraries.cupy.__version__)}
        if policy == "ans":
            return Decision("gpu", codec.name, f"ANS was asked for, and there is {gpus.describe()}", {}, versions)
        rates = measure(codec, gpus)
        if not rates["gpu"]:
            return Decision("cpu", on_cpu, f"{gpus.describe()} does not code: {gpus.warning}", rates, versions)
        by, reason = self._by_rates(rates, self._threads)
        return Decision(by, codec.name if by == "gpu" else on_cpu, f"{gpus.describe()}: {reason}", rates, versions)

    def _on_gpu(self, portable: bool) -> LayoutCodec:
        from poorwill.codecs.gpu.nvcomp import NvcompAns, PlanesOnGpu

        gpus = self.gpus()
        assert gpus is not None
        return PlanesOnGpu(gpus) if portable else NvcompAns(gpus)

    def pinned(self, buffer: memoryview) -> memoryview:
        """The buffer, pinned if GPUs are in use."""
        return buffer if self._gpus is None else self._gpus.pin(buffer)

    def close(self) -> None:
        """Stop using the GPUs. Idempotent."""
        with self._lock:
            if self._gpus is not None:
                self._gpus.close()
