"""Generating, step 2: from the image to an MP4 with its pictures, on the GPU that this process has."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task

from poorwill.media.parameters import Resolved
from tasks.progress import ProgressArtifacts, generating
from tasks.retries import policy, transient_in_time
from tasks.stage_times import Stages
from tasks.studio import Studio, current

if TYPE_CHECKING:
    from poorwill.media.frames import Frames
    from poorwill.media.loading import LoadedPipeline
    from poorwill.media.model import Model

UPDATE_S = 3.0
"""Each update costs this host some CPU, which on the CPU's own lanes is taken from inference."""


@task(name="infer", **policy(transient_in_time))
def infer(parameters: Resolved) -> dict[str, Any]:
    """Generate, encode, and prove that the file holds what was asked for; all of it in the run's folder.

    The pipeline stays loaded for the next run in this process. Returns `video` (facts of the file), `timings_ms`
    and `inference_began_at` (POSIX seconds). Stops with Cancelled at the next step when it is asked to.

    Args:
        parameters: what to make, all of it resolved.
    """
    from PIL import Image

    from poorwill.media.inference import generate

    opened, stages = current(), Stages()
    with stages("load"):
        pipeline = opened.process.pipelines.get(opened.model.record(), lambda model: _load(opened, model))
    began_at = time.time()
    counters = {"steps": 0, "frames": 0}
    measure = generating(parameters.steps, parameters.num_frames)

    def on_step(done: int, total: int) -> None:
        counters["steps"] = done

    def on_frame(done: int, total: int) -> None:
        counters["frames"] = done

    with Image.open(opened.image) as image, ProgressArtifacts(counters.copy, measure, update_s=UPDATE_S):
        with stages("infer"):
            frames = generate(pipeline, image, parameters, on_step=on_step, stop=opened.process.stop)
        with stages("encode"):
            facts = _encode(frames, parameters.fps, opened, on_frame)
    return {"video": facts, "timings_ms": stages.timings_ms, "inference_began_at": began_at}


def _encode(frames: Frames, fps: float, opened: Studio, on_frame: Callable[[int, int], None]) -> dict[str, Any]:
    """Write the three files; the video is read back by its encoder."""
    from poorwill.media import previews, video

    files = opened.files
    found = video.encode(frames, fps, files.video, on_frame=on_frame, check=opened.process.stop.check)
    files.poster.write_bytes(previews.poster(frames))
    files.contact_sheet.write_bytes(previews.contact_sheet(frames))
    return {**asdict(found), "fps": float(found.fps)}


def _load(opened: Studio, model: Model) -> LoadedPipeline:
    from poorwill.media import loading, weights

    def folder_of_weights(prefix: str) -> Path:
        return weights.local_folder(opened.model.open_store(), prefix, _cache_root(), stop=opened.process.stop)

    return loading.load(model, folder_of_weights)


def _cache_root() -> Path:
    return Path(os.environ.get("POORWILL_WEIGHTS_DIR") or Path.home() / ".cache" / "poorwill" / "weights")
