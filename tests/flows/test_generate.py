"""The flow `generate`, whole: a picture from a real HTTP server, a real (tiny) pipeline, a real store and server."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.flow_engine import run_flow
from prefect.states import Scheduled, State
from prefect_aws import AwsCredentials
from pydantic import SecretStr

import blocks
from deployments.demo import tiny_models
from deployments.servers.picture_server import PictureServer, dusk
from deployments.servers.prefect_server import PrefectServer
from deployments.servers.s3_server import S3Server
from flows.generate import generate
from poorwill.errors import DeadlineExceeded, NotFound, Refused, UsageError
from poorwill.media import delivery, process_state, video
from poorwill.media.process_state import ProcessState
from poorwill.media.stop import Stop
from poorwill.store.local import LocalStore
from tests.worker.rig import until

LONG = {"steps": 100, "num_frames": 97, "height": 128, "width": 128}
"""Minutes, if nobody stopped it."""
SMALL = {"num_frames": 9, "height": 64, "width": 64, "steps": 2}


class Studio:
    """Blocks `<name>`: a tiny SkyReels, and media in a local store that may fetch from the picture server."""

    def __init__(self, name: str, folder: Path, pictures: PictureServer, model: Path) -> None:
        self.name, self.folder = name, folder
        self.store = LocalStore(folder / "store")
        self.image_url = pictures.url
        place = blocks.LocalStore(directory=str(folder / "store"))
        place.save(f"{name}-store")
        blocks.Media(store=place, allow=[pictures.address]).save(name)
        blocks.VideoModel(
            pipeline="HunyuanSkyreelsImageToVideoPipeline", source=str(model), dtype="float32", **SMALL
        ).save(name)

    def parameters(self, **other: Any) -> dict[str, Any]:
        blocks_used = {"model": self.name, "media": self.name}
        return {"image_url": self.image_url, "prompt": "a moon | rises <b>", **blocks_used, **other}

    def run(self, **other: Any) -> State[Any]:
        """The final state of a run."""
        state: Any = generate(**self.parameters(**other), return_state=True)
        return state

    def error(self, **other: Any) -> BaseException:
        found = self.run(**other).result(raise_on_failure=False)
        assert isinstance(found, BaseException), found
        return found


@pytest.fixture(scope="session")
def tiny_skyreels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make("skyreels", tmp_path_factory.mktemp("tiny") / "skyreels")


@pytest.fixture(scope="module")
def pictures() -> Iterator[PictureServer]:
    with PictureServer() as server:
        yield server


@pytest.fixture(scope="module")
def studio(
    prefect_server: PrefectServer,
    tmp_path_factory: pytest.TempPathFactory,
    pictures: PictureServer,
    tiny_skyreels: Path,
) -> Studio:
    return Studio("studio", tmp_path_factory.mktemp("studio"), pictures, tiny_skyreels)


@pytest.fixture(scope="module")
def process() -> ProcessState:
    return ProcessState()


@pytest.fixture(autouse=True)
def nobody_asks_to_stop(process: ProcessState) -> Iterator[None]:
    """The tests' process is an entry point like the resident process."""
    process.stop.clear()
    with process_state.using(process):
        yield


def test_a_picture_becomes_a_video(studio: Studio) -> None:
    """An MP4 of exactly what was asked for, its pictures, the record with every parameter and the seed, and the
    artifacts: a link, and a contact sheet that Prefect's UI shows."""
    state = studio.run(guidance=2.0, fps=8)
    made = state.result()
    assert state.is_completed()
    found = video.probe(path_of(made["url"]))
    assert (found.frames, found.width, found.height, found.fps) == (9, 64, 64, 8)
    assert (
        path_of(made["poster_url"]).read_bytes()[:2]
        == b"\xff\xd8"
        == path_of(made["contact_sheet_url"]).read_bytes()[:2]
    )
    parameters = made["parameters"]
    assert (parameters["steps"], parameters["guidance"], parameters["fps"]) == (2, 2.0, 8)
    assert 0 <= parameters["seed"] < 2**53 and made["image"]["origin"] == studio.image_url
    assert {"check", "download", "load", "infer", "encode"} <= set(made["timings_ms"])
    record = delivery.delivered(studio.store, made["run"])
    assert record is not None and record.document().items() <= made.items()

    shown = artifacts(UUID(made["run"]))
    assert made["url"] in shown["video"] and "data:image/jpeg;base64," in shown["contact-sheet"]
    assert "a moon \\| rises &lt;b>" in shown["contact-sheet"] and len(shown["contact-sheet"].encode()) < 100_000
    assert "denoised" in shown and "encoded" in shown


def path_of(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path))


def artifacts(run: UUID) -> dict[str, str]:
    """Key -> data of each artifact of a run."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))
    return {str(artifact.key): str(artifact.data) for artifact in found}


def test_the_model_stays_and_a_seed_is_a_video(studio: Studio, process: ProcessState) -> None:
    """The second run finds the pipeline loaded, and the same seed gives the same bytes; another one, others."""
    first, second, third = (studio.run(seed=seed).result() for seed in (1, 1, 2))
    assert process.pipelines.model is not None and second["timings_ms"]["load"] < 500
    one, same, other = (path_of(made["url"]).read_bytes() for made in (first, second, third))
    assert one == same != other and first["run"] != second["run"]


def test_a_run_that_begins_anew_finds_its_video(studio: Studio) -> None:
    """Nothing is made twice: the record of the run answers, also when the picture is gone."""
    made = studio.run().result()
    before = studio.store.head(delivery.key_of(made["run"], "video")).modified_s
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(made["run"]), Scheduled(), force=True)
        run = client.read_flow_run(UUID(made["run"]))
    found: Any = run_flow(generate, flow_run=run, parameters=studio.parameters(image_url="http://127.0.0.1:1/gone"))
    assert found["url"] == made["url"]
    assert studio.store.head(delivery.key_of(made["run"], "video")).modified_s == before


def test_a_picture_from_a_bucket(studio: Studio, s3_server: S3Server) -> None:
    """One that the media block names, below its prefix; the rest of the bucket stays closed. The block can be changed
    and saved again."""
    keys = AwsCredentials(aws_access_key_id=s3_server.access_key, aws_secret_access_key=SecretStr(s3_server.secret_key))
    bucket = blocks.S3Store(bucket=s3_server.bucket, prefix="in", endpoint=s3_server.endpoint, credentials=keys)
    bucket.save("studio-in")
    bucket.open().put("a.png", dusk(64))
    media = blocks.Media.load(studio.name)
    for names in (["studio-in"], ["studio-in", "studio-store"]):
        media.image_stores = names
        media.save("studio-s3", overwrite=True)
        media = blocks.Media.load("studio-s3")
        assert media.image_stores == names and isinstance(media.store, blocks.LocalStore)
    error = studio.error(media="studio-s3", image_url=f"s3://{s3_server.bucket}/in/a.png")
    assert isinstance(error, UsageError) and "is not a bucket" in str(error)
    media.image_stores = ["studio-in"]
    media.save("studio-s3", overwrite=True)
    made = studio.run(media="studio-s3", image_url=f"s3://{s3_server.bucket}/in/a.png").result()
    assert made["image"]["width"] == 64
    outside = studio.error(media="studio-s3", image_url=f"s3://{s3_server.bucket}/out/a.png")
    assert isinstance(outside, Refused) and s3_server.bucket in str(outside)


@pytest.mark.parametrize("kind", ["S3Store", "LocalStore"])
def test_blocks_are_saved_again_and_read_back(prefect_server: PrefectServer, kind: str) -> None:
    """With a store of each kind inside, whose credentials are of several kinds themselves."""
    name = f"again-{kind.lower()}"
    keys = AwsCredentials(aws_access_key_id="k", aws_secret_access_key=SecretStr("s"))
    store: Any = (
        blocks.LocalStore(directory="/d") if kind == "LocalStore" else blocks.S3Store(bucket="b", credentials=keys)
    )
    for fps in (8, 16):
        blocks.Media(store=store, url_expires_s=fps).save(name, overwrite=True)
        blocks.VideoModel(pipeline="WanImageToVideoPipeline", source="store:m", store=store, fps=fps).save(
            name, overwrite=True
        )
        media, model = blocks.Media.load(name), blocks.VideoModel.load(name)
        assert type(media.store) is type(model.store) is type(store)
        assert (media.url_expires_s, dict(model.record().defaults)) == (fps, {"fps": fps})


@pytest.mark.parametrize(
    ("wrong", "kind", "says"),
    [
        ({"num_frames": 6}, UsageError, "num_frames=6: must be 4k.1 for SkyReels.*5 or 9"),
        ({"height": 60, "width": 60}, UsageError, "height=60.*48 or 64.*width=60"),
        ({"model": "no-such"}, NotFound, "no video model block named 'no-such'"),
        ({"media": "no-such"}, NotFound, "no media block named 'no-such'"),
        ({"image_url": "http://127.0.0.1:9/x.png"}, Refused, "127.0.0.1"),
        ({"image_url": "http://169.254.169.254/latest/meta-data"}, Refused, "169.254.169.254"),
        ({"image_url": "ftp://example.com/x.png"}, UsageError, "ftp"),
        ({"image_url": "s3://secrets/x.png"}, Refused, "secrets"),
        ({"image_url": "data:image/png;base64,AAAA"}, UsageError, "."),
    ],
    ids=["frames", "size", "model", "media", "loopback", "metadata", "scheme", "bucket", "not an image"],
)
def test_impossible_parameters_are_refused(
    studio: Studio, process: ProcessState, wrong: dict[str, Any], kind: type[BaseException], says: str
) -> None:
    """The user's own mistakes: before a model is loaded, at once (nothing is retried), and nothing is stored."""
    process.pipelines.clear()
    before = [found.key for found in studio.store.list("videos/")]
    state = studio.run(**wrong)
    error = state.result(raise_on_failure=False)
    assert state.is_failed() and isinstance(error, kind), error
    assert re.search(says, str(error)), error
    assert process.pipelines.model is None and [found.key for found in studio.store.list("videos/")] == before


def test_a_missing_picture_is_not_retried(studio: Studio) -> None:
    """404 is a final answer."""
    error = studio.error(image_url=studio.image_url + ".old")
    assert isinstance(error, NotFound) and "HTTP 404" in str(error)


def test_a_run_stops_at_its_timeout(studio: Studio) -> None:
    """timeout_s, at the next step; the message says what to lower, and tasks are not retried."""
    error = studio.error(timeout_s=1, **LONG)
    assert isinstance(error, DeadlineExceeded) and "timeout_s=1" in str(error)


def stop_once_it_generates(stop: Stop) -> None:
    until(lambda: any(thread.name == "progress" for thread in threading.enumerate()), "progress is shown")
    stop.request("enough")


def test_a_run_that_is_stopped_is_cancelled(studio: Studio, process: ProcessState) -> None:
    """Not failed; nothing of it is stored, and the pipeline serves the next run."""
    assert studio.run().is_completed()
    model = process.pipelines.model
    stopper = threading.Thread(target=stop_once_it_generates, args=(process.stop,))
    stopper.start()
    state = studio.run(**LONG)
    stopper.join()
    assert state.is_cancelled() and state.message == "enough"
    process.stop.clear()
    assert studio.run().is_completed() and process.pipelines.model is model
