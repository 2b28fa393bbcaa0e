"""What a snapshot needs of the machine that decodes it beyond a CPU, and whether a machine has it.

Metadata says it in words like `nvcomp>=6,<7`: a library and the one major version of it whose format some chunks have.
Another major version reads them as little as a CPU does, so each is a need of its own, with packages of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from poorwill.codecs import registry
from poorwill.engine.protocol.answers import MachineFacts
from poorwill.errors import HostUnfit, Unsupported
from poorwill.providers.base import Wish
from poorwill.snapshot.metadata import Metadata

NEEDS_MAX = 16
_NEED = re.compile(r"([a-z][a-z0-9-]{0,31})>=(0|[1-9][0-9]{0,3}),<([1-9][0-9]{0,3})")
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,5}")
_TEXT_MAX = 80
_REASON_MAX = 300


@dataclass(frozen=True, slots=True)
class Need:
    """One major version of a library that works on NVIDIA GPUs alone.

    requirements: the file in poorwill/remote whose packages bring it to a machine where nvidia-smi lists a GPU.
    cuda_min is the CUDA version that the driver must know, driver_min the first driver that does.
    """

    library: str  # as in metadata, and the field in which an engine tells its version
    major: int
    label: str
    requirements: str
    driver_min: tuple[int, ...]
    cuda_min: float
    compute_capability_min: float

    @property
    def text(self) -> str:
        """As metadata says it."""
        return f"{self.library}>={self.major},<{self.major + 1}"

    def describe(self) -> str:
        """For messages."""
        return (
            f"{self.label}, an NVIDIA GPU of compute capability {self.compute_capability_min:.1f} or higher and its "
            f"driver {'.'.join(map(str, self.driver_min))} or newer"
        )

    def lacking_gpu(self, gpus: Sequence[str], driver: str) -> str:
        """What is not as it must be, in words that follow the machine's name; "" if nothing.

        gpus, driver: as `engine.machine.nvidia_smi.gpus_and_driver` tells them.
        """
        if not gpus:
            return "has no NVIDIA GPU (nvidia-smi lists none)"
        version = _version(driver)
        if version is None:
            return "does not tell the version of its NVIDIA driver"
        return f"has the NVIDIA driver {driver}" if version < self.driver_min else ""

    def lacking(self, facts: MachineFacts) -> str:
        """The same by all that an engine tells of its machine. One that tells less than it could has less."""
        lack = self.lacking_gpu(facts.gpu, facts.gpu_driver)
        if lack:
            return lack
        installed = str(getattr(facts, self.library))
        version = _version(installed)
        if version is None:
            return (
                f"has an engine without {self.label} (packages for the GPU are installed with the engine if they can "
                "be: the log says why not, and removing ~/.poorwill/engine there has it tried again; an engine of this "
                "host has those of this Python: pip install 'poorwill[gpu]')"
            )
        if version[0] != self.major:
            return f"has version {installed} of that library in its engine"
        if not facts.gpu_usable:
            why = (facts.gpu_unusable or "the engine does not say why")[:_REASON_MAX]
            return f"has {facts.gpu[0][:_TEXT_MAX]}, and {self.label} does not work there ({why})"
        return ""


# CUDA 12 needs driver 525.60.13 on Linux (CUDA's release notes); nvCOMP's wheels for it hold code from sm_70 on.
_NVCOMP_6 = Need("nvcomp", 6, "nvCOMP 6", "requirements-gpu.txt", (525, 60, 13), 12.0, 7.0)
KNOWN = {need.text: need for need in (_NVCOMP_6,)}
"""What this version can bring to a machine, by the words in metadata."""


def of(metadata: Metadata) -> tuple[Need, ...]:
    """What a snapshot needs: what its metadata says, and what the codecs in it imply. Each once.

    Unsupported, with what to do, for anything that this version cannot bring to a machine, or does not know.
    """
    for name in metadata.codecs:
        if name not in registry.ID_BY_NAME:
            raise Unsupported(
                f"snapshot {metadata.snapshot_id} holds chunks of codec '{name[:80]}', unknown here: use a newer "
                "poorwill"
            )
    said = metadata.needs
    if len(said) > NEEDS_MAX:
        raise Unsupported(
            f"snapshot {metadata.snapshot_id} needs {len(said)} things, expected at most {NEEDS_MAX}: use a newer "
            "poorwill"
        )
    implied = (registry.needs(registry.ID_BY_NAME[name]) for name in metadata.codecs)
    return tuple(_known(text, metadata) for text in dict.fromkeys([*said, *filter(None, implied)]))


def _known(text: str, metadata: Metadata) -> Need:
    need = KNOWN.get(text)
    if need is not None:
        return need
    snapshot_id, found = metadata.snapshot_id, _NEED.fullmatch(text)
    alike = [known for known in KNOWN.values() if found is not None and known.library == found[1]]
    if found is None or not alike or int(found[3]) != int(found[2]) + 1:
        raise Unsupported(
            f"snapshot {snapshot_id} needs '{text[:_TEXT_MAX]}', which this version does not know: use a newer poorwill"
        )
    newer = int(found[2]) > max(known.major for known in alike)
    raise Unsupported(
        f"snapshot {snapshot_id} needs {text}, and this version brings {', '.join(known.label for known in alike)} to "
        f"machines: {'use a newer poorwill, or ' if newer else ''}convert it with the poorwill that wrote it "
        f"({metadata.tool.version[:_TEXT_MAX]}): poorwill convert {snapshot_id} --portable"
    )


def wished(needs: Sequence[Need], wish: Wish) -> Wish:
    """The wish for a machine that has what is needed. What was asked for stays: it may be more."""
    for need in needs:
        wish = replace(
            wish,
            gpu_count=1 if wish.gpu is None and wish.gpu_count is None else wish.gpu_count,
            cuda_min=max(need.cuda_min, wish.cuda_min or 0.0),
            compute_capability_min=max(need.compute_capability_min, wish.compute_capability_min or 0.0),
        )
    return wish


def check_machine(metadata: Metadata, facts: MachineFacts) -> None:
    """HostUnfit if a machine cannot decode a snapshot, by what its engine tells; Unsupported as `of`.

    The facts may lie: then decoding fails, and nothing that is wrong is written.
    """
    snapshot_id = metadata.snapshot_id
    for need in of(metadata):
        lack = need.lacking(facts)
        if lack:
            raise HostUnfit(
                f"snapshot {snapshot_id} needs {need.describe()}; {facts.host[:_TEXT_MAX] or 'the machine'} "
                f"{lack}; nothing was restored: take another machine, or run 'poorwill convert {snapshot_id} "
                "--portable' on one that has all of it"
            )


def _version(text: str) -> tuple[int, ...] | None:
    """A version's numbers, or None if it is not a version. Numbers are compared, so that 60 is below 100."""
    if _VERSION.fullmatch(text) is None:
        return None
    return tuple(int(number) for number in text.split("."))
