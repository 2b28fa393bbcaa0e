"""Id 4: nvCOMP's rANS on a GPU. No CPU decodes it, and no other major version of nvCOMP: the snapshot lists that need.

The codecs here belong to one thread each; ans.py is the work on the device, nvcomp_form.py the stored form.
"""

from __future__ import annotations

from poorwill.codecs import registry
from poorwill.codecs.gpu import nvcomp_form
from poorwill.codecs.gpu.gpu_pool import Gpus
from poorwill.codecs.gpu.nvcomp_form import Form
from poorwill.codecs.planes import Layout, Planes

BODY_BYTES_MIN = 1024
"""Shorter chunks gain nothing, and nvCOMP is not tested with them."""


class NvcompAns:
    """Encodes by `layout`, which the chooser sets; decodes any. Calls wait for the GPU and hold no lock meanwhile."""

    id = registry.NVCOMP_ANS
    name = registry.name(id)

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus
        self.layout = Layout(2, True, 0b10)

    def encode(self, raw: memoryview, out: memoryview) -> int | None:
        return _encode(self._gpus, "ans", raw, out, nvcomp_form.form_of(self.layout))

    def decode(self, stored: memoryview, out: memoryview) -> None:
        form, _, _ = nvcomp_form.read(stored, len(out))
        self._gpus.decode(stored, out, form)


class PlanesOnGpu(Planes):
    """Id 2, written by a GPU: what any CPU reads. Decodes on the CPU."""

    def __init__(self, gpus: Gpus) -> None:
        super().__init__()
        self._gpus = gpus

    def encode(self, raw: memoryview, out: memoryview) -> int | None:
        return _encode(self._gpus, "planes", raw, out, nvcomp_form.split_of(self.layout))


def _encode(gpus: Gpus, kind: str, raw: memoryview, out: memoryview, form: Form) -> int | None:
    if not form.coded or form.body(len(raw)) < BODY_BYTES_MIN or not out:
        return None
    return gpus.encode(kind, raw, out, form)
