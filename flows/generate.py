"""The flow that makes a video from an image: check, download, infer, upload."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Annotated, Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from blocks.lookup import webhook_block
from blocks.webhooks import USERS
from flows.stages import ended
from poorwill import defaults
from poorwill.errors import DeadlineExceeded, PoorwillError
from poorwill.media import delivery
from poorwill.media.parameters import Asked, Resolved, resolve
from poorwill.media.stop import Stop
from poorwill.timestamps import timed
from tasks.generate import download_image, infer, upload_video
from tasks.reports.video_report import publish_video
from tasks.studio import Studio, studio

SEED_BITS = 53
"""What a JSON number keeps everywhere."""


@flow(name="generate", flow_run_name="generate-{model}", persist_result=False)
def generate(
    image_url: str,
    prompt: str,
    negative_prompt: str | None = None,
    model: str = defaults.VIDEO_MODEL,
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None,
    num_frames: Annotated[int, Field(ge=1)] | None = None,
    height: Annotated[int, Field(ge=16)] | None = None,
    width: Annotated[int, Field(ge=16)] | None = None,
    steps: Annotated[int, Field(ge=1)] | None = None,
    guidance: Annotated[float, Field(ge=0)] | None = None,
    fps: Annotated[float, Field(gt=0, le=120)] | None = None,
    timeout_s: Annotated[int, Field(ge=1, le=86_400)] = 3600,
    media: str = defaults.MEDIA,
    webhook_url: str | None = None,
) -> dict[str, Any]:
    """Make an MP4 video that begins with an image, and upload it; returns its URL.

    A run that was cut off and begins anew makes the same video, or finds it made. What is left empty is the model's
    default; nothing that is given is changed: what the model cannot do is refused, with the nearest it can.

    Args:
        image_url: The first frame: an http, https or data URL of a PNG, JPEG or WebP picture, for example
            `https://example.com/cat.png`, or `s3://bucket/key` of a bucket that the media block names.
        prompt: What is to happen, for example `the cat turns its head, slow zoom`. Empty for models that take none.
        negative_prompt: What is not to be seen, for example `blurry, text`.
        model: Name of a video model's block.
        seed: The same seed, with everything else the same, gives the same video. Empty: one that is told in the result.
        num_frames: How many frames; the model has a rule, like 4k+1: 97.
        height: In pixels, a multiple of what the model needs, like 544.
        width: In pixels, a multiple of what the model needs, like 960.
        steps: Denoising steps: more take longer and look better.
        guidance: How closely the prompt is followed.
        fps: Frames per second of the video.
        timeout_s: After this long the run stops at its next step.
        media: Name of the media block: where images may come from, and where videos go.
        webhook_url: Is sent a signed message when this run has ended, however it did, for example
            `https://example.com/videos/done`.
    """
    try:
        if webhook_url:
            webhook_block(USERS).receiver_at(webhook_url)  # refused now, and not when the video is made
        # A form sends an empty text where nothing was written.
        asked = Asked(prompt or None, negative_prompt or None, seed, num_frames, height, width, steps, guidance, fps)
        with studio(str(flow_run.id), model, media) as opened, _time_limit(opened.process.stop, timeout_s):
            return _generate(opened, model, image_url, asked)
    except PoorwillError as error:
        return ended(error)


def _generate(opened: Studio, model: str, image_url: str, asked: Asked) -> dict[str, Any]:
    """Returns the record of the video and its URLs. A run that has made its video returns it again."""
    timings_ms = dict[str, int]()
    with timed(timings_ms, "check"):
        parameters = _resolved(asked, opened)
        record = delivery.delivered(opened.store, opened.run)
    if record is not None:
        get_run_logger().info("the video of this run was made before")
        return _result(opened, record)
    with timed(timings_ms, "download"):
        image = download_image(image_url)
    made = infer(parameters)
    opened.process.stop.check()
    facts = {
        "model": model,
        "parameters": asdict(parameters),
        "image": image,
        "video": made["video"],
        "timings_ms": timings_ms | made["timings_ms"],
        "inference_began_at": made["inference_began_at"],
    }
    result = _result(opened, upload_video(facts))
    publish_video(result, opened)
    return result


def _resolved(asked: Asked, opened: Studio) -> Resolved:
    """Every parameter, checked by the model's rules before anything is downloaded or loaded. UsageError."""
    if asked.seed is None:
        # Derived from the run, so that a run that begins anew makes the same video.
        asked = replace(asked, seed=int(opened.run.replace("-", ""), 16) % 2**SEED_BITS)
    return resolve(asked, opened.model.profile(), opened.model.record())


def _result(opened: Studio, record: delivery.VideoRecord) -> dict[str, Any]:
    expires_s = opened.media.url_expires_s
    found = delivery.urls(opened.store, opened.run, expires_s)
    return {
        **record.document(),
        "url": found["video"],
        "poster_url": found["poster"],
        "contact_sheet_url": found["contact_sheet"],
        "url_expires_s": expires_s,
    }


@contextmanager
def _time_limit(stop: Stop, timeout_s: float) -> Iterator[None]:
    """After that long, the run stops at its next step."""
    message = f"the run took longer than timeout_s={timeout_s:.0f}: allow more, or lower steps, num_frames or size"
    timer = threading.Timer(timeout_s, stop.request, [message, DeadlineExceeded])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
