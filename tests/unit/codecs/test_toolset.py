"""Whether the GPU or the CPU codes is decided by measured rates, and recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.chunks import chunk
from poorwill.codecs.chooser import estimate
from poorwill.codecs.gpu import decision
from poorwill.codecs.gpu.decision import ENOUGH_MB_S, decide, measure, weights
from poorwill.codecs.gpu.gpu_pool import Gpus, open_gpus
from poorwill.codecs.gpu.nvcomp import NvcompAns
from poorwill.codecs.planes import Layout, Planes
from poorwill.codecs.toolset import Toolset
from poorwill.errors import Unsupported
from tests.support.doubles.fake_cuda import FakeCuda

RAW = chunk("bf16", 300_000)
rates = st.integers(0, 1 << 40)


def gpus_of(cuda: FakeCuda) -> Callable[[], Gpus]:
    return lambda: open_gpus(cuda.libraries())


def always_gpu(_: dict[str, int], __: int) -> tuple[str, str]:
    return "gpu", "it is always taken"


@pytest.mark.parametrize(
    ("hash_", "cpu", "gpu", "threads", "by"),
    [
        (5000, 1750, 20_000, 2, "gpu"),  # two cores: 2 GB/s without, 6 with
        (5000, 1750, 20_000, 16, "gpu"),  # 18 without, 20 with
        (5000, 1750, 9_000, 64, "gpu"),  # slower than 64 cores, and more than any link
        (5000, 1750, 1_500, 16, "cpu"),  # a slow bus
        (5000, 1750, 1_500, 1, "gpu"),
        (5000, 1750, 0, 1, "cpu"),
    ],
)
def test_gpu_or_cpu_by_their_rates(hash_: int, cpu: int, gpu: int, threads: int, by: str) -> None:
    """The GPU where the engine is then faster, or fast enough for any link; the figures are in the reason."""
    found, reason = decide({"hash": hash_, "cpu": cpu, "gpu": gpu}, threads)
    assert found == by and f"{threads} threads" in reason and "MB/s" in reason


@given(rates, rates, rates, st.integers(1, 256))
def test_a_faster_gpu_is_chosen_at_least_as_often(hash_: int, cpu: int, gpu: int, threads: int) -> None:
    """Any rates give a decision; a GPU that is chosen would also be chosen if it were faster, or the CPU slower."""
    by, _ = decide({"hash": hash_, "cpu": cpu, "gpu": gpu}, threads)
    if by == "gpu":
        assert decide({"hash": hash_, "cpu": cpu, "gpu": 2 * gpu}, threads)[0] == "gpu"
        assert decide({"hash": hash_, "cpu": cpu // 2, "gpu": gpu}, threads)[0] == "gpu"
    if gpu >= ENOUGH_MB_S and threads * hash_ >= 2 * ENOUGH_MB_S:
        assert by == "gpu"


def test_measured_rates() -> None:
    """Bytes that code like weights, on the CPU by one thread and on the GPU by many; one that fails has the rate 0."""
    assert estimate(weights()).layout == Layout(2, True, 0b10) and len(weights()) == decision.SAMPLE_BYTES
    gpus = open_gpus(FakeCuda().libraries())
    found = measure(NvcompAns(gpus), gpus)
    assert min(found.values()) > 0 and set(found) == {"hash", "cpu", "gpu"}
    assert gpus._pinned == []
    gpus.close()
    assert measure(NvcompAns(gpus), gpus)["gpu"] == 0


@pytest.mark.parametrize(
    ("policy", "portable", "codec"),
    [
        ("auto", False, 4),
        ("auto", True, 2),
        ("ans", False, 4),
        ("ans", True, 3),
        ("planes", False, 2),
        ("raw", True, 0),
    ],
)
def test_policies_with_a_gpu(policy: str, portable: bool, codec: int) -> None:
    """auto and ans are coded by a chosen GPU; portable uses only codecs that a CPU decodes, whichever device codes."""
    cuda = FakeCuda()
    toolset = Toolset(gpus_of(cuda), decide=always_gpu)
    out = memoryview(bytearray(len(RAW)))
    found, size = toolset.chooser(policy, portable=portable).encode(RAW, out)
    assert found == codec
    on_gpu = policy == "auto" or (policy == "ans" and not portable)
    assert any(what == "encode" for what, _, _ in cuda.calls) == on_gpu == toolset.on_gpu
    if codec:
        back = memoryview(bytearray(len(RAW)))
        (Toolset() if codec != 4 else toolset).codec(found).decode(out[:size], back)
        assert back == RAW
    toolset.close()


def test_the_decision_is_recorded() -> None:
    """Once, with the figures and the versions of the libraries; nothing before something was coded."""
    toolset = Toolset(gpus_of(FakeCuda(version="6.0.0.12")), threads=2, decide=always_gpu)
    assert toolset.coding("auto", portable=False) is None
    toolset.chooser("auto")
    toolset.chooser("ans", portable=True)
    told = toolset.coding("auto", portable=False)
    assert told is not None
    assert (told["by"], told["codec"], told["fell_back"]) == ("gpu", "nvcomp-ans/6", 0)
    assert told["reason"] == "Fake 0: it is always taken" and told["versions"]["nvcomp"] == "6.0.0.12"
    assert toolset.decision("auto", False) is toolset.decision("auto", False)
    toolset.close()


def test_without_a_gpu() -> None:
    """The CPU codes, with the reason; a codec of the GPU is refused with the same one. GPUs are looked for once."""
    asked = list[int]()

    def none() -> Gpus:
        asked.append(1)
        raise Unsupported("CUDA finds no GPU: the driver is too old")

    toolset = Toolset(none)
    assert toolset.chooser("auto").encode(RAW, memoryview(bytearray(len(RAW))))[0] == Planes.id
    assert toolset.decision("auto", False).reason == "CUDA finds no GPU: the driver is too old"
    with pytest.raises(Unsupported, match=r"nvcomp-ans/6.*nvcomp>=6,<7.*the driver is too old"):
        toolset.codec(4)
    assert not toolset.on_gpu and asked == [1]


def test_a_gpu_that_does_not_code() -> None:
    """A GPU that fails at the first chunk: the CPU codes, and the reason is the GPU's error."""
    toolset = Toolset(gpus_of(FakeCuda(miscodes=True)))
    made = toolset.decision("auto", False)
    assert made.by == "cpu" and made.reason.startswith("Fake 0 does not code: ")
    toolset.close()
