"""The second half of the demo: a video from a picture, through the deployed flow, on a worker of the pool `gpu`."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import rich.status
from rich.console import Console
from rich.markup import escape

from deployments.demo.sandbox import NAME, Sandbox
from deployments.servers.tiny_model_build import TinyModelBuild
from poorwill.cli.address import Address
from poorwill.cli.following import Following, Look
from poorwill.cli.run_bars import sentence
from poorwill.cli.run_report import failure
from poorwill.cli.runs import Runs
from poorwill.cli.server import Server
from poorwill.errors import DeadlineExceeded, PoorwillError
from poorwill.runs import Status

PROMPT = "the moon rises over the hills, slow zoom"
RUN_TIMEOUT_S = 180.0


def make_video(sandbox: Sandbox, console: Console, keep_in: Path) -> None:
    """Build a tiny model, deploy the flow, start a worker, generate, and copy video and contact sheet to `keep_in`.

    Says where they are, and the URL, which is good for days where the server is.

    The error of a run that fails, DeadlineExceeded if it does not end in time.
    """
    from deployments.servers.picture_server import PictureServer
    from deployments.servers.worker_process import GpuWorkerProcess

    environment = {**sandbox.prefect.env(), "POORWILL_GPUS": "none", "POORWILL_CPU_SLOTS": "1"}
    with ExitStack() as running:
        pictures = running.enter_context(PictureServer())
        with console.status("building a tiny SkyReels with random weights, starting a GPU worker without a GPU"):
            building = TinyModelBuild(sandbox.folder / "model", sandbox.folder / "model.log")
            running.callback(building.stop)
            _deploy(sandbox, pictures.address)
            running.enter_context(GpuWorkerProcess(sandbox.folder / "worker", environment))
            building.wait()
        console.print(" [green]✓[/green] a worker waits for runs of the pool gpu")
        run = _generate(sandbox, console, {"image_url": pictures.url, "prompt": PROMPT, "model": NAME})
        _copy(run, keep_in, console)


def _deploy(sandbox: Sandbox, allowed: str) -> None:
    from blocks import Media, VideoModel
    from blocks.lookup import store_block
    from deployments.registration.default_blocks import tiny_model
    from deployments.registration.gpu_pool import create_pool, deploy
    from flows.generate import generate

    Media(store=store_block(NAME), allow=[allowed]).save("media")
    VideoModel(**tiny_model(str(sandbox.folder / "model"))).save(NAME)
    create_pool()
    deploy(generate, gpus=1)


def _generate(sandbox: Sandbox, console: Console, parameters: dict[str, Any]) -> str:
    """Create the run, and show it until it is over. Returns its id."""
    began_s = time.monotonic()
    console.print("[bold]generate[/bold]")
    runs = Runs(Server(Address(sandbox.prefect.api_url, sandbox.prefect.base_url, "the demo")))
    run = runs.create(runs.deployment("generate"), parameters)
    with console.status("queued") as status:
        run = Following(runs, run.id).end(_StatusLine(status))
    if run.status is not Status.DONE:
        raise failure(run.name, run.state_type, run.message)
    console.print(f" [green]✓[/green] flow generate completed in {time.monotonic() - began_s:.1f} s")
    return run.id


class _StatusLine:
    """A run in one line. DeadlineExceeded if it is not over in time."""

    def __init__(self, status: rich.status.Status) -> None:
        self._status, self._ends_s = status, time.monotonic() + RUN_TIMEOUT_S

    def look(self, look: Look) -> None:
        if time.monotonic() > self._ends_s:
            raise DeadlineExceeded(f"the flow generate did not end in {RUN_TIMEOUT_S:.0f} s")
        steps = [f"{measure.progress.step} {measure.progress.percent:.0f}%" for measure in look.measures]
        self._status.update(escape(", ".join([sentence(look), *steps])))

    def away(self, error: PoorwillError) -> None:
        self._status.update(escape(error.message))


def _copy(run: str, keep_in: Path, console: Console) -> None:
    from blocks.lookup import media_block
    from poorwill.media import delivery

    media = media_block("media")
    video, contact_sheet = keep_in / "demo-video.mp4", keep_in / "demo-contact-sheet.jpg"
    with closing(media.open()) as store:
        url = delivery.urls(store, run, media.url_expires_s)["video"]
        video.write_bytes(store.get(delivery.key_of(run, "video")))
        contact_sheet.write_bytes(store.get(delivery.key_of(run, "contact_sheet")))
    console.print(f"\nvideo         {escape(str(video))}")
    console.print(f"contact sheet {escape(str(contact_sheet))}")
    console.print(f"its URL       {escape(url)} (while the servers are up: --keep)")
