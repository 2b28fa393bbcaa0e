"""Failures of a pipeline: memory, the GPU, frames of another shape. With a pipeline made for it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from poorwill.errors import Corrupt, DeviceFailed, OutOfMemory, UsageError
from poorwill.media.inference import Frames, generate
from poorwill.media.loading import LoadedPipeline
from poorwill.media.memory import plan
from poorwill.media.model import Memory, Model
from poorwill.media.parameters import Asked, Resolved, resolve
from poorwill.media.profiles import profile_of
from poorwill.media.stop import Stop

WAN, LTX = profile_of("WanImageToVideoPipeline"), profile_of("LTXImageToVideoPipeline")
MODEL = Model(WAN.pipeline_class, "/w")
RESOLVED = resolve(Asked("a bird", seed=1, num_frames=5, height=16, width=32, steps=2), WAN, MODEL)


class ScriptedPipe:
    """Answers with `frames`, or what `fail` raises; remembers what it was called with, and how often it was cleaned."""

    def __init__(self, frames: torch.Tensor | None = None, fail: Callable[[], None] = lambda: None) -> None:
        self.frames, self._fail = frames, fail
        self.scheduler = SimpleNamespace(timesteps=[2, 1])
        self.vae_scale_factor_spatial = 8
        self.vae = SimpleNamespace()
        self.transformer = SimpleNamespace(config=SimpleNamespace(patch_size=(1, 2, 2)))
        self.passed: dict[str, Any] = {}
        self.freed = 0

    def __call__(self, **passed: Any) -> Any:
        self.passed = passed
        self._fail()
        return SimpleNamespace(frames=[self.frames])

    def maybe_free_model_hooks(self) -> None:
        self.freed += 1


def made(pipe: ScriptedPipe, image: Image.Image | None = None, resolved: Resolved = RESOLVED) -> Frames:
    pipeline = LoadedPipeline(pipe, MODEL, WAN, "cpu", plan(Memory(), None))
    picture = image or Image.new("RGB", (32, 16))
    return generate(pipeline, picture, resolved, on_step=lambda done, total: None, stop=Stop())


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_values_become_pixels() -> None:
    """0 to 1 in any float type become 0 to 255, rounded; channels go last."""
    frames = torch.zeros(5, 3, 16, 32, dtype=torch.bfloat16)
    frames[1, 0, 2, 3], frames[1, 1, 2, 3], frames[1, 2, 2, 3] = 1.0, 0.5, 0.25
    pixels = made(ScriptedPipe(frames))
    assert pixels[1, 2, 3].tolist() == [255, 128, 64] and pixels.sum() == 255 + 128 + 64


@pytest.mark.parametrize("shape", [(4, 3, 16, 32), (5, 3, 32, 16), (5, 3, 16, 16), (5, 4, 16, 32)])
def test_frames_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    """Another number, size or number of channels than asked for."""
    with pytest.raises(Corrupt, match="asked for were 5 of 16x32"):
        made(ScriptedPipe(torch.zeros(shape)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_infinite_values_are_an_error(value: float) -> None:
    """One is enough: as pixels they would be black, or anything."""
    frames = torch.zeros(5, 3, 16, 32, dtype=torch.float16)
    frames[3, 2, 15, 31] = value
    with pytest.raises(Corrupt, match="frame 3 holds infinite or NaN values"):
        made(ScriptedPipe(frames))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_says_what_to_lower(error: Exception) -> None:
    """Parameters of the video, and the model's memory; weights are taken off the GPU."""
    pipe = ScriptedPipe(fail=raising(error))
    with pytest.raises(OutOfMemory) as failed:
        made(pipe)
    for name in ("num_frames", "height", "width", "offload", "quantization", "vae_tiling"):
        assert name in failed.value.message
    assert pipe.freed == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    ],
)
def test_a_failed_gpu_needs_another_process(error: Exception) -> None:
    """Its context answers every later call with the same error, the cleaning too, which must not hide the first."""
    pipe = ScriptedPipe(fail=raising(error))
    pipe.maybe_free_model_hooks = raising(torch.AcceleratorError("CUDA error: again"))  # type: ignore[method-assign]
    with pytest.raises(DeviceFailed, match="start a new one") as failed:
        made(pipe)
    assert "again" not in failed.value.message


@pytest.mark.parametrize(
    "error", [ValueError("`height` has to be divisible"), RuntimeError("shapes differ"), KeyError()]
)
def test_other_errors_pass(error: Exception) -> None:
    """They are of this program or of diffusers, and say so; the GPU is cleaned all the same."""
    pipe = ScriptedPipe(fail=raising(error))
    with pytest.raises(type(error)) as failed:
        made(pipe)
    assert failed.value is error and pipe.freed == 1


def test_an_error_keeps_no_tensor_alive() -> None:
    """An error that is logged later must not keep gigabytes of the GPU."""
    left: list[weakref.ref[torch.Tensor]] = []

    def fail() -> None:
        activations = torch.zeros(1000)
        left.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemory) as failed:
        made(ScriptedPipe(fail=fail))
    gc.collect()
    assert failed.value.__context__ is not None and left[0]() is None


def test_a_size_that_these_weights_cannot_make_is_refused_before() -> None:
    """Wan 2.2's 5B model compresses more than its class: it would round 16 to 0."""
    pipe = ScriptedPipe(torch.zeros(5, 3, 16, 32))
    pipe.vae_scale_factor_spatial = 16
    with pytest.raises(UsageError, match="height=16: must be a multiple of 32"):
        made(pipe)
    assert pipe.passed == {}


def test_the_image_is_covered_and_cut_around_its_centre() -> None:
    """Twice as wide as asked for: the outer quarters go, nothing is squeezed; transparency and grey become RGB."""
    wide = np.zeros((64, 256), np.uint8)
    wide[:, 64:192] = 255
    pipe = ScriptedPipe(torch.zeros(5, 3, 16, 32))
    made(pipe, Image.fromarray(wide, "L"))
    seen = np.asarray(pipe.passed["image"])
    assert seen.shape == (16, 32, 3) and seen.min() > 230  # 0 if any of them were left


def test_the_noise_is_drawn_on_the_cpu() -> None:
    """So that a seed means the same on each device; but where LTX's later decoders draw their own, on theirs."""
    pipe = ScriptedPipe(torch.zeros(5, 3, 16, 32))
    made(pipe)
    generator = pipe.passed["generator"]
    assert (generator.device.type, generator.initial_seed()) == ("cpu", RESOLVED.seed)
    for profile, conditioned, device in ((WAN, True, "cpu"), (LTX, False, "cpu"), (LTX, True, "cuda")):
        pipe.vae = SimpleNamespace(config=SimpleNamespace(timestep_conditioning=conditioned))
        assert LoadedPipeline(pipe, MODEL, profile, "cuda", plan(Memory(), None)).noise_device == device
