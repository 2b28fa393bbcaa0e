"""The frames of a video in memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from poorwill.errors import UsageError

Frames = npt.NDArray[np.uint8]
"""(n, height, width, 3), sRGB."""


def check_frames(frames: Frames) -> None:
    """UsageError for arrays of another type or shape, and for an empty one."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise UsageError(f"frames are uint8 of shape (n, height, width, 3), not {frames.dtype} of {frames.shape}")
