"""The second half of the demo: a video from a picture, through the deployed flow, on a worker of the pool `gpu`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rich.console import Console
from rich.markup import escape

from deployments.demo.stack import NAME, DemoError, Stack
from deployments.servers import child_process

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

PROMPT = "the moon rises over the hills, slow zoom"
SIZE = {"num_frames": 9, "height": 128, "width": 128, "steps": 4, "fps": 8}
BUILD_TIMEOUT_S = 120.0
RUN_TIMEOUT_S = 180.0
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Shown:
    """What is left to look at: the URL, good for days where the server is, and copies on this disk."""

    url: str
    video: Path
    contact_sheet: Path


def make_video(stack: Stack, console: Console, keep_in: Path) -> Shown:
    """Build a tiny model, deploy the flow, start a worker, generate, and copy video and contact sheet to `keep_in`.

    DemoError if the run does not complete.
    """
    from deployments.servers.picture_server import PictureServer
    from deployments.servers.worker_process import GpuWorkerProcess

    environment = {**stack.prefect.env(), "POORWILL_GPUS": "none", "POORWILL_CPU_SLOTS": "1"}
    with ExitStack() as running:
        pictures = running.enter_context(PictureServer())
        with console.status("building a tiny SkyReels with random weights, starting a GPU worker without a GPU"):
            building = _build(stack.scratch / "model")
            running.callback(building.kill)
            deployment = _deploy(stack, pictures.address)
            running.enter_context(GpuWorkerProcess(stack.scratch / "worker", environment))
            _built(building)
        console.print(" [green]✓[/green] a worker waits for runs of the pool gpu")
        run = _generate(console, deployment, {"image_url": pictures.url, "prompt": PROMPT, "model": NAME, **SIZE})
        return _shown(run, keep_in)


def _build(folder: Path) -> subprocess.Popen[bytes]:
    """In a process of its own: importing torch takes seconds, and much memory."""
    command = [sys.executable, "-m", "deployments.demo.tiny_models", "skyreels", str(folder)]
    log_path = folder.with_suffix(".log")
    return child_process.start(command, environment=os.environ, log_path=log_path, name="build")


def _built(building: subprocess.Popen[bytes]) -> None:
    try:
        status = building.wait(BUILD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        building.kill()
        status = building.wait()
    if status:
        raise DemoError(f"the tiny model could not be built: its process ended with {status}")


def _deploy(stack: Stack, allowed: str) -> UUID:
    from blocks import Media, S3Store, VideoModel
    from deployments.registration.gpu_pool import create_pool, deploy
    from flows.generate import generate

    Media(store=S3Store.load(NAME), allow=[allowed]).save("media")
    source = str(stack.scratch / "model")
    VideoModel(pipeline="HunyuanSkyreelsImageToVideoPipeline", source=source, dtype="float32").save(NAME)
    create_pool()
    return deploy(generate, gpus=1)


def _generate(console: Console, deployment: UUID, parameters: dict[str, Any]) -> str:
    """Create the run, and show it until it is over. Returns its id."""
    from prefect.client.orchestration import get_client

    began = time.monotonic()
    console.print("[bold]generate[/bold]")
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters).id
        with console.status("queued") as status:
            for text in _progress(client, run):
                status.update(text)
        state = client.read_flow_run(run).state
    if state is None or not state.is_completed():
        raise DemoError(f"the flow generate ended as {state.name if state else 'nothing'}: {state and state.message}")
    console.print(f" [green]✓[/green] flow generate completed in {time.monotonic() - began:.1f} s")
    return str(run)


def _progress(client: SyncPrefectClient, run: UUID) -> Iterator[str]:
    """What to show, until the run is over."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterType

    ends_s = time.monotonic() + RUN_TIMEOUT_S
    shown = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]), type=ArtifactFilterType(any_=["progress"]))
    while time.monotonic() < ends_s:
        state = client.read_flow_run(run).state
        if state is None or state.is_final():
            return
        artifacts = client.read_artifacts(artifact_filter=shown, limit=10)
        steps = [f"{artifact.description} {float(str(artifact.data)):.0f}%" for artifact in artifacts]
        yield escape(", ".join([state.name or "", *steps]))
        time.sleep(POLL_S)
    raise DemoError(f"the flow generate did not end in {RUN_TIMEOUT_S:.0f} s")


def _shown(run: str, keep_in: Path) -> Shown:
    from blocks import Media
    from poorwill.media import delivery

    media = Media.load("media")
    with closing(media.open()) as store:
        urls = delivery.urls(store, run, media.url_expires_s)
        shown = Shown(urls["video"], keep_in / "demo-video.mp4", keep_in / "demo-contact-sheet.jpg")
        shown.video.write_bytes(store.get(delivery.key_of(run, "video")))
        shown.contact_sheet.write_bytes(store.get(delivery.key_of(run, "contact_sheet")))
    return shown
