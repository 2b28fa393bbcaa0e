"""Everything that generating takes, all of it real: servers, blocks, a tiny model, pools, deployments, workers.

Imports Prefect, which takes seconds: for the rows that need it. It does not import torch, whose memory and threads
belong to the processes that are measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker
from prefect_aws import AwsCredentials
from pydantic import SecretStr

import blocks
from bench.measure import Command, CommandFailed, run
from deployments.registration.gpu_pool import create_pool, deploy
from deployments.servers.picture_server import PictureServer
from deployments.servers.prefect_server import PrefectServer
from deployments.servers.s3_server import S3Server
from deployments.servers.worker_process import GpuWorkerProcess
from flows.generate import generate
from poorwill.media import delivery
from poorwill.store.base import Store

PIPELINE = "HunyuanSkyreelsImageToVideoPipeline"
PROMPT = "the moon rises over the hills"
SMALL: dict[str, Any] = {"num_frames": 9, "height": 64, "width": 64, "steps": 2}
QUERY_S = 1
"""How often workers ask for work, of both types."""
POLL_S = 0.2
RUN_TIMEOUT_S = 300.0
MODEL, MEDIA, PROCESS_POOL = "video", "media", "process"


@dataclass(slots=True)
class Studio:
    """`deployment` is that of the pool `gpu`. `gpu`: this host has one, so that inference is done there."""

    folder: Path
    gpu: bool
    model: Path
    server: PrefectServer
    store: Store
    client: SyncPrefectClient
    image_url: str
    deployment: UUID

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.gpu else "float32"

    def worker(self, name: str, *, kind: str = "gpu", cpu_slots: int = 0, **settings: str) -> GpuWorkerProcess:
        """A worker that is not started yet, with a folder of its own and POORWILL_<name> settings.

        cpu_slots: so many lanes without a GPU; 0: a lane for each GPU, or one without where there is none.
        """
        given = {"GPUS": "auto" if self.gpu and not cpu_slots else "none", **settings}
        given["CPU_SLOTS"] = str(cpu_slots or (0 if self.gpu else 1))
        environment = {
            **self.server.env(),
            "PREFECT_WORKER_QUERY_SECONDS": str(QUERY_S),
            **{f"POORWILL_{key}": value for key, value in given.items()},
        }
        pool = PROCESS_POOL if kind == "process" else "gpu"
        return GpuWorkerProcess(self.folder / name, environment, pool=pool, kind=kind, name=name)

    def create(self, deployment: UUID, key: str | None = None, **parameters: Any) -> UUID:
        """Ask for a run; `key` is its idempotency key. `parameters` beside image and prompt."""
        given = {"image_url": self.image_url, "prompt": PROMPT, **parameters}
        return self.client.create_flow_run_from_deployment(deployment, parameters=given, idempotency_key=key).id

    def completed(self, run: UUID, *, poll_s: float = POLL_S, timeout_s: float = RUN_TIMEOUT_S) -> dict[str, Any]:
        """The record of a run's video, once that is over. CommandFailed if there is none, or not in time."""
        ends_s = time.monotonic() + timeout_s
        while not _is_over(found := self.client.read_flow_run(run)):
            if time.monotonic() > ends_s:
                raise CommandFailed(f"a run was not over after {timeout_s:.0f} s: {_state(found)}")
            time.sleep(poll_s)
        record = delivery.delivered(self.store, str(run))
        if found.state is None or not found.state.is_completed() or record is None:
            raise CommandFailed(f"a run ended without its video: {_state(found)}")
        return record.document()

    def deploy_to_process_pool(self) -> UUID:
        """The same flow in a pool of Prefect's own type `process`, which is made."""
        template = ProcessWorker.get_default_base_job_template()
        self.client.create_work_pool(WorkPoolCreate(name=PROCESS_POOL, type="process", base_job_template=template))
        deployment: Any = generate.to_deployment(
            PROCESS_POOL, work_pool_name=PROCESS_POOL, entrypoint_type=EntrypointType.MODULE_PATH
        )
        return UUID(str(deployment.apply()))


def _is_over(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


def _state(run: FlowRun) -> str:
    return f"{run.state.name}: {run.state.message}" if run.state is not None else "it has no state"


@contextmanager
def studio(folder: Path) -> Iterator[Studio]:
    """All of it below `folder`, which is made; what was started ends with it."""
    folder.mkdir(parents=True)
    gpu, model = _has_gpu(), _make_model(folder / "model")
    with ExitStack() as running:
        s3 = running.enter_context(S3Server(folder / "objects"))
        server = running.enter_context(PrefectServer(folder / "prefect"))
        running.enter_context(server.settings())
        pictures = running.enter_context(PictureServer())
        media = _save_blocks(s3, pictures, model, gpu)
        store = media.open()
        running.callback(store.close)
        create_pool()
        deployment = deploy(generate, gpus=1)
        client = running.enter_context(get_client(sync_client=True))
        yield Studio(folder, gpu, model, server, store, client, pictures.url, deployment)


def _has_gpu() -> bool:
    code = "import torch; print(torch.cuda.is_available())"
    return run(Command([sys.executable, "-c", code])).stdout.strip() == "True"


def _make_model(folder: Path) -> Path:
    run(Command([sys.executable, "-m", "deployments.demo.tiny_models", "skyreels", str(folder)]))
    return folder


def _save_blocks(s3: S3Server, pictures: PictureServer, model: Path, gpu: bool) -> blocks.Media:
    keys = AwsCredentials(
        aws_access_key_id=s3.access_key, aws_secret_access_key=SecretStr(s3.secret_key), region_name="us-east-1"
    )
    keys.save("bench")
    place = blocks.S3Store(bucket=s3.bucket, prefix="bench", endpoint=s3.endpoint, credentials=keys)
    place.save("bench")
    media = blocks.Media(store=place, allow=[pictures.address])
    media.save(MEDIA)
    video = blocks.VideoModel(
        pipeline=PIPELINE,
        source=str(model),
        dtype="bfloat16" if gpu else "float32",
        # As the bare loop has it, whatever GPU there is.
        offload="none",
        quantization="none",
        **SMALL,
    )
    video.save(MODEL)
    return media
