"""The steps of generating a video: the image, the video on the GPU that this process has, and its upload."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task

from blocks.lookup import store_block
from poorwill.media import delivery
from poorwill.media.parameters import Resolved
from poorwill.timestamps import timed
from tasks.progress import ProgressArtifacts, generating
from tasks.retries import policy, transient_in_time
from tasks.studio import Studio, current

if TYPE_CHECKING:
    from poorwill.media.frames import Frames
    from poorwill.media.loading import LoadedPipeline
    from poorwill.media.model import Model

UPDATE_S = 3.0
"""Each update costs this host some CPU, which on the CPU's own lanes is taken from inference."""


@task(name="download_image", **policy(transient_in_time))
def download_image(image_url: str) -> dict[str, Any]:
    """Fetch the image, from the web, the request or a bucket of the media block, and keep it in the run's folder.

    Returns its `origin` (without secrets), `format`, `width`, `height` in pixels and `bytes`. Only transient errors are
    retried: a server that did not answer, but not a file that is no picture.
    """
    from poorwill.media.image_source import fetch_image

    opened = current()
    sources = opened.media.sources(store_block(name) for name in opened.media.image_stores)
    found = fetch_image(image_url, sources, check=opened.process.stop.check)
    found.image.save(opened.image, compress_level=1)  # lossless; better compression only takes time
    return {name: getattr(found, name) for name in ("origin", "format", "width", "height", "bytes")}


@task(name="infer", **policy(transient_in_time))
def infer(parameters: Resolved) -> dict[str, Any]:
    """Generate, encode, and prove that the file holds what was asked for; all of it in the run's folder.

    The pipeline stays loaded for the next run in this process. Returns `video` (facts of the file), `timings_ms`
    and `inference_began_at` (POSIX seconds). Stops with Cancelled at the next step when it is asked to.
    """
    from PIL import Image

    from poorwill.media.inference import generate

    opened, timings_ms = current(), dict[str, int]()
    with timed(timings_ms, "load"):
        pipeline = opened.process.pipelines.get(opened.model.record(), lambda model: _load(opened, model))
    began_at = time.time()
    counters = {"steps": 0, "frames": 0}
    measure = partial(generating, parameters.steps, parameters.num_frames)

    def on_step(done: int, total: int) -> None:
        counters["steps"] = done

    def on_frame(done: int, total: int) -> None:
        counters["frames"] = done

    with Image.open(opened.image) as image, ProgressArtifacts(counters.copy, measure, update_s=UPDATE_S):
        with timed(timings_ms, "infer"):
            frames = generate(pipeline, image, parameters, on_step=on_step, stop=opened.process.stop)
        with timed(timings_ms, "encode"):
            facts = _encode(frames, parameters.fps, opened, on_frame)
    return {"video": facts, "timings_ms": timings_ms, "inference_began_at": began_at}


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

    cache = Path(os.environ.get("POORWILL_WEIGHTS_DIR") or Path.home() / ".cache" / "poorwill" / "weights")

    def folder_of_weights(prefix: str) -> Path:
        return weights.local_folder(opened.model.open_store(), prefix, cache, stop=opened.process.stop)

    return loading.load(model, folder_of_weights)


@task(name="upload_video", **policy(transient_in_time))
def upload_video(facts: dict[str, Any]) -> delivery.VideoRecord:
    """Upload video, poster and contact sheet, and then the record, with which the run's video exists; returns it.

    Idempotent. `facts` are the record's fields, without the sizes.
    """
    opened = current()
    return delivery.deliver(opened.store, opened.run, opened.files, facts)
