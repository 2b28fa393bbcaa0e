"""One image and its parameters become the frames of a video. Imports torch: for GPU processes only."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from poorwill.errors import Corrupt, UsageError
from poorwill.media.device import device_error, release_after
from poorwill.media.frames import Frames
from poorwill.media.loading import LoadedPipeline
from poorwill.media.parameters import Resolved, arguments
from poorwill.media.stop import Stop

log = logging.getLogger(__name__)
OnStep = Callable[[int, int], None]
_REMEDY = (
    "ask for fewer frames (num_frames) or a smaller picture (height, width), or give the model's memory another "
    "offload (model, group, sequential), quantization (fp8, int8, 4bit) or vae_tiling"
)


def generate(
    pipeline: LoadedPipeline, image: Image.Image, resolved: Resolved, *, on_step: OnStep, stop: Stop
) -> Frames:
    """The video: (frames, height, width, 3), uint8, RGB.

    The image is scaled until it covers height x width and cut to it around its centre; only pipelines without a size
    get it as it is. `on_step(done, total)` is called after each denoising step. The noise is drawn on the CPU from
    `resolved.seed`, so that a seed means the same on each device, except where a pipeline insists on its own.

    Cancelled at the next step, with the reason, when `stop` says so; UsageError for a size that these weights cannot
    make; OutOfMemory; DeviceFailed; Corrupt if the pipeline made something else than was asked for, or values that
    are not finite. Errors of `on_step` pass. After all of them but DeviceFailed the pipeline can be used again.
    """
    stop.check()
    _check_size(pipeline, resolved)
    steps = _Steps(pipeline.pipe, on_step, stop)
    passed = {
        **arguments(resolved, pipeline.profile),
        "image": _fitted(image, resolved),
        "generator": torch.Generator(pipeline.noise_device).manual_seed(resolved.seed),
        "output_type": "pt",
    }
    try:
        with _attention(pipeline.plan.attention), steps.counted(passed, pipeline.profile.takes_callback):
            output = pipeline.pipe(**passed)
        stop.check()
        return _pixels(output.frames[0], resolved)
    except BaseException as error:
        _clean_up(pipeline.pipe, error)
        failure = device_error(error, _REMEDY)
        if failure is not None:
            raise failure from None
        raise


class _Steps:
    """Called after each step of a pipeline: counts, reports, and stops."""

    def __init__(self, pipe: Any, on_step: OnStep, stop: Stop) -> None:
        self._scheduler, self._on_step, self._stop = pipe.scheduler, on_step, stop
        self._done = 0

    def _after(self) -> None:
        self._done += 1
        self._on_step(self._done, len(self._scheduler.timesteps))
        self._stop.check()

    @contextlib.contextmanager
    def counted(self, passed: dict[str, Any], takes_callback: bool) -> Iterator[None]:
        """Add the callback to the arguments, or, for a pipeline without one, wrap its scheduler's step meanwhile.

        Not both ways for all: LTX-2 copies its scheduler for the sound, which then shares the wrapped method.
        """
        if takes_callback:
            passed["callback_on_step_end"] = self._callback
            passed["callback_on_step_end_tensor_inputs"] = []
            yield
            return
        scheduler, step = self._scheduler, self._scheduler.step

        @functools.wraps(step)
        def counting(*given: Any, **named: Any) -> Any:
            stepped = step(*given, **named)
            self._after()
            return stepped

        scheduler.step = counting
        try:
            yield
        finally:
            del scheduler.step

    def _callback(self, pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._after()
        return tensors


def _check_size(pipeline: LoadedPipeline, resolved: Resolved) -> None:
    """Before minutes are spent: these pipelines would make another size, with a warning at most."""
    multiple = pipeline.size_multiple
    for name, size in (("height", resolved.height), ("width", resolved.width)):
        if size is not None and size % multiple:
            raise UsageError(
                f"{name}={size}: must be a multiple of {multiple} for the weights of {pipeline.model.source}: with "
                f"size_multiple={multiple} in the model's defaults it is refused at once"
            )


def _fitted(image: Image.Image, resolved: Resolved) -> Image.Image:
    colours = image.convert("RGB")
    if resolved.height is None or resolved.width is None:
        return colours
    return ImageOps.fit(colours, (resolved.width, resolved.height), Image.Resampling.LANCZOS)


def _attention(backend: str) -> contextlib.AbstractContextManager[None]:
    """The attention backend for as long as it lasts. Setting it on a model would also set it for the next model."""
    if not backend:
        return contextlib.nullcontext()
    from diffusers.models.attention_dispatch import attention_backend

    chosen: contextlib.AbstractContextManager[None] = attention_backend(backend)
    return chosen


def _pixels(frames: Any, resolved: Resolved) -> Frames:
    """`frames`: (frames, 3, height, width) from 0 to 1, on any device."""
    count, channels, height, width = frames.shape
    expected = (resolved.num_frames, 3, resolved.height or height, resolved.width or width)
    if (count, channels, height, width) != expected:
        raise Corrupt(
            f"the pipeline made {count} frames of {height}x{width} with {channels} channels, asked for were "
            f"{expected[0]} of {expected[2]}x{expected[3]}: its class and its weights may not belong together"
        )
    pixels = np.empty((count, height, width, 3), np.uint8)
    for number, frame in enumerate(frames):
        if not torch.isfinite(frame).all():
            raise Corrupt(
                f"frame {number} holds infinite or NaN values: the weights may not work in the model's dtype; "
                "try bfloat16 or float32"
            )
        pixels[number] = frame.float().mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels


def _clean_up(pipe: Any, error: BaseException) -> None:
    """What a pipeline does at its end when nothing fails, its weights off the GPU again above all."""
    try:
        pipe.maybe_free_model_hooks()
        release_after(error)
    except RuntimeError as second:  # of a GPU that failed; the first error says more
        log.warning("after %s: %s", type(error).__name__, second)
