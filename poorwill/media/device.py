"""The processor that a model runs on: which one it is, how much memory it has, and what its errors mean."""

from __future__ import annotations

import gc
import re
import traceback

import torch

from poorwill.errors import DeviceFailed, OutOfMemory, PermanentError

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|STATUS_ALLOC_FAILED", re.IGNORECASE)
_FAILED = re.compile(r"CUDA (driver )?error|cuDNN error|CUDNN_STATUS|CUBLAS_STATUS|HIP error|device-side assert")


def memory_bytes(device: str) -> int | None:
    """All of the GPU's memory in bytes, used or not; None without a GPU of CUDA or ROCm."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.startswith("cuda") else None


def release_memory(*, compiled: bool = False) -> None:
    """Give back memory that nothing refers to any more: cycles of objects, then what the allocator keeps for later.

    `compiled`: forget compiled code too, that of models which are still in use as well.
    """
    if compiled:
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def release_after(error: BaseException) -> None:
    """The same, and free every tensor that the error's traceback refers to."""
    traceback.clear_frames(error.__traceback__)
    release_memory()


def device_error(error: BaseException, remedy: str) -> PermanentError | None:
    """What an error of torch means, or None if it says nothing about the device.

    OutOfMemory for memory of the GPU or the host; `remedy` says what to lower. DeviceFailed for anything else that
    the GPU's driver reports: its context cannot be used again, so the process has to be replaced.
    """
    text = " ".join(str(error).split())[:300]
    if not isinstance(error, (RuntimeError, MemoryError)):
        return None
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _NO_MEMORY.search(text):
        return OutOfMemory(f"there is not enough memory: {remedy} ({text or type(error).__name__})")
    if isinstance(error, torch.AcceleratorError) or _FAILED.search(text):
        return DeviceFailed(f"the GPU failed, and this process cannot use it any more: start a new one ({text})")
    return None
