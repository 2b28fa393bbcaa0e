"""Snapshots and restores by a real engine with a real GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from poorwill.codecs.chooser import Chooser
from poorwill.codecs.gpu.gpu_pool import Gpus
from poorwill.codecs.gpu.nvcomp import PlanesOnGpu
from poorwill.codecs.toolset import Toolset
from poorwill.control.snapshot.needs import of as needs_of
from poorwill.errors import HostUnfit
from poorwill.remote.local_host import LocalHost
from poorwill.store.local import LocalStore
from tests.gpu.device import gpus, needed
from tests.support import runs
from tests.support.engines import ThreadHost
from tests.support.trees import differences
from tests.support.workspaces import noise, safetensors

needed()

VALUES = 9_000_000
"""Of bf16: more than two chunks."""


class Kept(Gpus):
    """The GPUs that all tests share: an engine that ends does not close them."""

    def __init__(self, shared: Gpus) -> None:
        super().__init__(shared.libraries, shared._each)

    def close(self) -> None:
        pass


class PortableOnGpu(Toolset):
    """Portable snapshots by the GPU, whatever the measurement says of this machine."""

    def chooser(self, policy: str, *, portable: bool = False) -> Chooser:
        found = self.gpus()
        assert portable and found is not None
        return Chooser(policy, PlanesOnGpu(found))


def on_gpu() -> Toolset:
    return Toolset(lambda: Kept(gpus()), 4)


def on_cpu() -> ThreadHost:
    return ThreadHost(toolset=Toolset())


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A workspace with weights of several kinds, text, noise and small files."""
    root = tmp_path / "workspace"
    root.mkdir()
    for number, dtype in enumerate(("BF16", "F16", "F32")):
        (root / f"{dtype}.safetensors").write_bytes(safetensors(dtype, VALUES, number, padding=number))
    (root / "noise.bin").write_bytes(noise(3_000_001))
    (root / "text.txt").write_text("one line after the other\n" * 90_000)
    for number in range(50):
        (root / f"small-{number}").write_bytes(noise(number * 7, number))
    return root


def test_there_and_back(local_store: LocalStore, weights: Path, tmp_path: Path) -> None:
    """ANS asked for: the weights are of codec 4, the snapshot says what it needs, and every byte comes back."""
    taken = runs.take(local_store, weights, host=ThreadHost(toolset=on_gpu()), codec="ans")
    assert "nvcomp-ans/6" in taken.metadata.codecs
    assert needs_of(taken.metadata)
    runs.restore(local_store, taken.id, tmp_path / "back", host=ThreadHost(toolset=on_gpu()))
    assert differences(weights, tmp_path / "back") == []


def test_an_engine_of_its_own(local_store: LocalStore, weights: Path, tmp_path: Path) -> None:
    """The same by the process that a machine runs, which finds the GPU by itself, and says so."""
    taken = runs.take(local_store, weights, host=LocalHost(), codec="ans")
    assert "nvcomp-ans/6" in taken.metadata.codecs
    runs.restore(local_store, taken.id, tmp_path / "back", host=LocalHost())
    assert differences(weights, tmp_path / "back") == []
    assert runs.verify(local_store, taken.id, "full", host=LocalHost()).mode == "full"


def test_auto_comes_back(local_store: LocalStore, weights: Path, tmp_path: Path) -> None:
    """Whoever `auto` chooses on this machine."""
    taken = runs.take(local_store, weights, host=LocalHost(), codec="auto")
    runs.restore(local_store, taken.id, tmp_path / "back", host=LocalHost())
    assert differences(weights, tmp_path / "back") == []


def test_portable(local_store: LocalStore, weights: Path, tmp_path: Path) -> None:
    """Planes by the GPU: nothing is needed, and an engine that knows of no GPU restores it."""
    host = ThreadHost(toolset=PortableOnGpu(lambda: Kept(gpus()), 4))
    before = gpus().fell_back
    taken = runs.take(local_store, weights, host=host, codec="auto", portable=True)
    assert gpus().fell_back == before
    assert set(taken.metadata.codecs) <= {"planes", "zstd", "raw"} and "planes" in taken.metadata.codecs
    assert not needs_of(taken.metadata)
    runs.restore(local_store, taken.id, tmp_path / "back", host=on_cpu())
    assert differences(weights, tmp_path / "back") == []


def test_without_a_gpu_it_is_refused(local_store: LocalStore, weights: Path, tmp_path: Path) -> None:
    """An engine with no GPU says what is missing before it writes anything."""
    taken = runs.take(local_store, weights, host=ThreadHost(toolset=on_gpu()), codec="ans")
    facts = {"gpu": [], "gpu_usable": False, "nvcomp": ""}
    with pytest.raises(HostUnfit):
        runs.restore(local_store, taken.id, tmp_path / "back", host=on_cpu(), facts=facts)
    assert not (tmp_path / "back").exists()


def test_converted(local_store: LocalStore, weights: Path, tmp_path: Path) -> None:
    """A machine with the GPU rewrites it; then any reads it."""
    taken = runs.take(local_store, weights, host=ThreadHost(toolset=on_gpu()), codec="ans")
    converted = runs.convert(local_store, taken.id, host=LocalHost())
    assert "nvcomp-ans/6" not in converted.metadata.codecs
    runs.restore(local_store, converted.id, tmp_path / "back", host=on_cpu())
    assert differences(weights, tmp_path / "back") == []
