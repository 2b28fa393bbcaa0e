"""The flow that makes a video from an image."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from blocks.lookup import webhook_block
from blocks.webhooks import USERS
from flows.generating import Request, generate_video
from flows.stages import ended
from poorwill.errors import PoorwillError
from poorwill.media.parameters import Asked


@flow(name="generate", flow_run_name="generate-{model}", persist_result=False)
def generate(
    image_url: str,
    prompt: str,
    negative_prompt: str | None = None,
    model: str = "video",
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None,
    num_frames: Annotated[int, Field(ge=1)] | None = None,
    height: Annotated[int, Field(ge=16)] | None = None,
    width: Annotated[int, Field(ge=16)] | None = None,
    steps: Annotated[int, Field(ge=1)] | None = None,
    guidance: Annotated[float, Field(ge=0)] | None = None,
    fps: Annotated[float, Field(gt=0, le=120)] | None = None,
    timeout_s: Annotated[int, Field(ge=1, le=86_400)] = 3600,
    media: str = "media",
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
        return generate_video(Request(image_url, model, media, timeout_s, asked))
    except PoorwillError as error:
        state: Any = ended(error)
        return state
