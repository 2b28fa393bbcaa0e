"""The course of a generation: check, download, infer, upload; and what is told of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from blocks.video_models import VideoModel
from flows.stages import Stages
from poorwill.errors import DeadlineExceeded, UsageError
from poorwill.media import delivery
from poorwill.media.parameters import Asked, Resolved, resolve
from poorwill.media.stop import Stop
from tasks.download_image import download_image
from tasks.infer import CONTACT_SHEET, infer
from tasks.studio import Studio, studio
from tasks.upload_video import publish, upload_video

SEED_BITS = 53
"""What a JSON number keeps everywhere."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a flow was asked for."""

    image_url: str
    model: str
    media: str
    timeout_s: float
    asked: Asked


def generate_video(request: Request) -> dict[str, Any]:
    """The whole of it. Returns the record of the video and its URLs. A run that has made its video returns it again."""
    run, stages = _own_run(), Stages()
    with studio(run, request.model, request.media) as opened, _time_limit(request.timeout_s, opened.process.stop):
        with stages("check"):
            parameters = _resolved(request, run, opened.model)
            record = delivery.delivered(opened.store, run)
        if record is not None:
            get_run_logger().info("the video of this run was made before")
            return _result(opened, run, record)
        record = _make(request, opened, run, parameters, stages)
        result = _result(opened, run, record)
        _publish(record, result, (opened.folder / CONTACT_SHEET).read_bytes())
        return result


def _make(request: Request, opened: Studio, run: str, parameters: Resolved, stages: Stages) -> dict[str, Any]:
    with stages("download"):
        image = download_image(run, request.image_url)
    plain = asdict(parameters)
    made = infer(run, plain)
    opened.process.stop.check()
    facts = {
        "model": request.model,
        "parameters": plain,
        "image": image,
        "video": made["video"],
        "timings_ms": stages.timings_ms | made["timings_ms"],
        "inference_began_at": made["inference_began_at"],
    }
    return upload_video(run, facts)


def _resolved(request: Request, run: str, block: VideoModel) -> Resolved:
    """Every parameter, checked by the model's rules before anything is downloaded or loaded. UsageError."""
    asked = request.asked
    if asked.seed is None:
        # Of the run, so that a run that begins anew makes the same video.
        asked = replace(asked, seed=int(run.replace("-", ""), 16) % 2**SEED_BITS)
    return resolve(asked, block.profile(), block.record())


def _result(opened: Studio, run: str, record: dict[str, Any]) -> dict[str, Any]:
    expires_s = opened.media.url_expires_s
    found = delivery.urls(opened.store, run, expires_s)
    return {
        **record,
        "url": found["video"],
        "poster_url": found["poster"],
        "contact_sheet_url": found["contact_sheet"],
        "url_expires_s": expires_s,
    }


def _publish(record: dict[str, Any], result: dict[str, Any], contact_sheet: bytes) -> None:
    from poorwill.media.previews import as_data_url

    urls = {"video": result["url"], "poster": result["poster_url"], "contact_sheet": result["contact_sheet_url"]}
    try:
        publish(record, urls, as_data_url(contact_sheet))
    except Exception as error:  # the video is there, whatever Prefect's UI shows
        get_run_logger().warning("the artifacts of this run are not shown: %s", type(error).__name__)


@contextmanager
def _time_limit(timeout_s: float, stop: Stop) -> Iterator[None]:
    """After that long, the run stops at its next step."""
    message = f"the run took longer than timeout_s={timeout_s:.0f}: allow more, or lower steps, num_frames or size"
    timer = threading.Timer(timeout_s, stop.request, [message, DeadlineExceeded])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _own_run() -> str:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise UsageError("generate is a flow: call it as one, so that its video has a run to belong to")
    return str(context.flow_run.id)
