"""Generating as users do it: a run of the deployment on a worker, its video by a URL from a bucket. All parts real."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from pydantic import SecretStr

import blocks
from deployments.servers.picture_server import PictureServer
from deployments.servers.s3_server import S3Server
from flows.generate import generate
from poorwill.media import delivery, video
from tests.worker.rig import Rig, until

SMALL = {"num_frames": 9, "height": 64, "width": 64, "steps": 2}
PRELOAD = "poorwill.media.loading,poorwill.media.inference"


class Deployed:
    """The flow, deployed to the rig's pool with blocks of a tiny model and of a bucket."""

    def __init__(self, rig: Rig, s3: S3Server, pictures: PictureServer, folder: Path) -> None:
        build = [sys.executable, "-m", "deployments.demo.tiny_models", "skyreels", str(folder / "model")]
        subprocess.run(build, check=True, timeout=100, capture_output=True)
        keys = blocks.stores.AwsCredentials(
            aws_access_key_id=s3.access_key, aws_secret_access_key=SecretStr(s3.secret_key)
        )
        bucket = blocks.S3Store(bucket=s3.bucket, prefix=rig.pool, endpoint=s3.endpoint, credentials=keys)
        blocks.Media(store=bucket, allow=[pictures.address]).save(rig.pool)
        blocks.VideoModel(
            pipeline="HunyuanSkyreelsImageToVideoPipeline", source=str(folder / "model"), dtype="float32", **SMALL
        ).save(rig.pool)
        self.rig, self.store, self.image_url = rig, bucket.open(), pictures.url
        self.deployment = rig.deploy(generate)

    def run(self, key: str | None = None, **other: Any) -> UUID:
        parameters = {
            "image_url": self.image_url,
            "prompt": "dusk",
            "model": self.rig.pool,
            "media": self.rig.pool,
            **other,
        }
        created = self.rig.client.create_flow_run_from_deployment(
            self.deployment, parameters=parameters, idempotency_key=key
        )
        return created.id


@pytest.mark.timeout(240)
def test_a_run_of_the_deployment_gives_a_url(rig: Rig, s3_server: S3Server, tmp_path: Path) -> None:
    """Anybody who has the URL gets the MP4, as video/mp4. The second run finds the model loaded. A run that is
    cancelled keeps the process and stores nothing; wrong parameters are refused before there is a run; and
    the same idempotency key is the same run."""
    rig.worker(PRELOAD=PRELOAD)
    with PictureServer() as pictures:
        deployed = Deployed(rig, s3_server, pictures, tmp_path)
        first = deployed.run(key="job-1")
        assert deployed.run(key="job-1") == first
        assert rig.ended(first, patience_s=120) == ["COMPLETED"]
        url = delivery.urls(deployed.store, str(first), 3600)["video"]
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
            (tmp_path / "video.mp4").write_bytes(answer.read())
            assert answer.headers["Content-Type"] == "video/mp4"
        found = video.probe(tmp_path / "video.mp4")
        assert (found.frames, found.width, found.height) == (9, 64, 64)

        stopped = deployed.run(steps=100, num_frames=97, height=128, width=128)
        denoising(rig, stopped)
        rig.cancel(stopped)
        assert rig.ended(stopped) == ["CANCELLED"] and delivery.delivered(deployed.store, str(stopped)) is None

        second = deployed.run()
        assert rig.ended(second) == ["COMPLETED"]
        record = delivery.delivered(deployed.store, str(second))
        assert record is not None and record.timings_ms["load"] < 500

        with pytest.raises(Exception, match="409"):
            deployed.run(num_frames="many")
        assert len(list(deployed.store.list("videos/"))) == 2 * len(("video", "poster", "contact_sheet", "record"))


def denoising(rig: Rig, run: UUID) -> None:
    """Wait until its progress is shown."""
    shown = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    until(lambda: rig.client.read_artifacts(artifact_filter=shown), "progress of the run")
