"""Every writer against every reader that claims to read it: whole snapshots, through the engine.

The GPU is the double of its libraries here; tests/gpu runs the same over a real one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from bench.chunks import KINDS, chunk
from poorwill.codecs.gpu.gpu_pool import open_gpus
from poorwill.codecs.toolset import Toolset
from poorwill.control.records import catalog
from poorwill.errors import HostUnfit, Unsupported
from poorwill.store.local import LocalStore
from tests.support.doubles.fake_cuda import FakeCuda
from tests.support.engines import ThreadHost
from tests.support.runs import MACHINE, Taken, restore, take, verify
from tests.support.trees import differences

READER = Path(__file__).parents[1] / "golden" / "reader.py"
GPU_FACTS = {"gpu": ["Fake 0"], "gpu_driver": "570.1", "nvcomp": "6.0.0.12", "gpu_usable": True}
WRITERS = {
    "cpu": ("cpu", "auto", False),
    "cpu, ANS": ("cpu", "ans", False),
    "cpu, portable": ("cpu", "auto", True),
    "gpu": ("gpu", "auto", False),
    "gpu, ANS": ("gpu", "ans", False),
    "gpu, portable": ("gpu", "auto", True),
    "gpu, ANS, portable": ("gpu", "ans", True),
}
NEEDS_GPU = {"gpu", "gpu, ANS"}
NOT_IN_THE_PAGES = {"cpu, ANS", "gpu, ANS, portable"}
"""OpenZL's frames are specified elsewhere: the minimal reader has raw, zstd and planes."""


def new_toolset(where: str) -> Toolset:
    if where == "cpu":
        return Toolset()
    cuda = FakeCuda()
    return Toolset(lambda: open_gpus(cuda.libraries()), decide=lambda rates, threads: ("gpu", "a test"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of every kind of data, with an odd byte at its end."""
    root = tmp_path_factory.mktemp("matrix") / "w"
    root.mkdir()
    for kind in KINDS:
        (root / kind.replace(" ", "_")).write_bytes(bytes(chunk(kind, 600_000)) + b"!")
    return root


@pytest.fixture(scope="module", params=list(WRITERS))
def written(
    request: pytest.FixtureRequest, workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, LocalStore, Taken]]:
    where, codec, portable = WRITERS[request.param]
    store = LocalStore(str(tmp_path_factory.mktemp("store")))
    yield (
        request.param,
        store,
        take(store, workspace, host=ThreadHost(toolset=new_toolset(where)), codec=codec, portable=portable),
    )


def test_what_it_says(written: tuple[str, LocalStore, Taken]) -> None:
    """Metadata names who coded, with which codecs, and what a machine needs to read it."""
    writer, _, taken = written
    where, _, portable = WRITERS[writer]
    metadata = taken.metadata
    assert metadata.needs == (("nvcomp>=6,<7",) if writer in NEEDS_GPU else ())
    assert ("nvcomp-ans/6" in metadata.codecs) == (writer in NEEDS_GPU)
    on_gpu = where == "gpu" and writer != "gpu, ANS, portable"
    assert metadata.coding is not None and metadata.coding.reason
    assert metadata.coding.by == ("gpu" if on_gpu else "cpu")
    assert metadata.coding.fell_back == 0
    assert not (portable and metadata.needs)


@pytest.mark.parametrize("reader", ["cpu", "gpu"])
def test_read_by(reader: str, written: tuple[str, LocalStore, Taken], workspace: Path, tmp_path: Path) -> None:
    """An engine that can read it restores every byte, and verifies it in full; one that cannot says so and does not
    begin, whether the machine's facts or the engine itself is asked."""
    writer, store, taken = written
    if reader == "cpu" and writer in NEEDS_GPU:
        with pytest.raises(HostUnfit, match="needs nvCOMP 6, an NVIDIA GPU"):
            restore(store, taken.id, tmp_path / "r", host=ThreadHost(toolset=new_toolset(reader)))
        with pytest.raises(Unsupported, match=r"nvcomp-ans/6.*needs nvcomp>=6,<7 and a GPU"):
            restore(store, taken.id, tmp_path / "r", host=ThreadHost(toolset=new_toolset(reader)), facts=GPU_FACTS)
        with pytest.raises(Unsupported, match="needs nvcomp>=6,<7 and a GPU"):
            verify(store, taken.id, "full", host=ThreadHost(toolset=new_toolset(reader)))
        assert not (tmp_path / "r").exists() or list((tmp_path / "r").iterdir()) == []
        assert verify(store, taken.id, "stored", host=ThreadHost(toolset=new_toolset(reader))).mode == "stored"
        return
    restore(store, taken.id, tmp_path / "r", host=ThreadHost(toolset=new_toolset(reader)), facts=GPU_FACTS)
    assert differences(workspace, tmp_path / "r") == []
    assert verify(store, taken.id, "full", host=ThreadHost(toolset=new_toolset(reader))).mode == "full"


def test_read_by_an_independent_reader(written: tuple[str, LocalStore, Taken], workspace: Path, tmp_path: Path) -> None:
    """The reader written from the pages alone reads what needs no GPU, whoever wrote it, and refuses the rest."""
    writer, store, taken = written
    ran = subprocess.run(
        [sys.executable, str(READER), unquote(urlsplit(store.url).path), MACHINE, taken.id, str(tmp_path / "r")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if writer in NEEDS_GPU | NOT_IN_THE_PAGES:
        assert ran.returncode != 0 and catalog.read(store, MACHINE, taken.id)
        return
    assert ran.returncode == 0, ran.stderr
    for kind in KINDS:
        name = kind.replace(" ", "_")
        assert (tmp_path / "r" / name).read_bytes() == (workspace / name).read_bytes(), kind
