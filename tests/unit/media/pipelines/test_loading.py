"""From a record to a pipeline: the right class, weights and types, no code from a repository, reasons for failures."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx2
import huggingface_hub.errors
import pytest
import torch
from safetensors.torch import load_file

from poorwill.errors import Corrupt, NotFound, OutOfMemory, PoorwillError, SourceUnavailable, UsageError
from poorwill.media import profiles
from poorwill.media.loading import LoadedPipeline, load
from poorwill.media.model import Memory, Model
from poorwill.media.weights import local_folder, publish
from poorwill.store.local import LocalStore
from tests.unit.media.pipelines.conftest import CLASSES

Tiny = Callable[[str], Path]
LTX = CLASSES["ltx"]


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def no_store(prefix: str) -> Path:
    raise AssertionError(f"nobody said store:, and yet {prefix}")


@pytest.mark.parametrize("inside", ["", "transformer"])
def test_a_transformer_from_elsewhere_is_injected(tiny: Tiny, tmp_path: Path, inside: str) -> None:
    """As SkyReels' is: at the top of its own folder, or where a pipeline keeps its; the source needs to have none."""
    base, other = copied(tiny("skyreels"), tmp_path / "base"), tmp_path / "other"
    shutil.move(base / "transformer", other / inside)
    model = Model(CLASSES["skyreels"], str(base), transformer=str(other), dtype="float32")
    transformer = load(model, no_store).pipe.transformer
    assert type(transformer).__name__ == "HunyuanVideoTransformer3DModel"
    expected = load(Model(CLASSES["skyreels"], str(tiny("skyreels")), dtype="float32"), no_store).pipe.transformer
    for name, weight in expected.state_dict().items():
        assert torch.equal(weight, transformer.state_dict()[name])


def test_weights_come_from_a_store(tiny: Tiny, local_store: LocalStore, tmp_path: Path) -> None:
    """Base and transformer, each from its prefix, through the cache."""
    base = copied(tiny("ltx"), tmp_path / "base")
    shutil.move(base / "transformer", tmp_path / "transformer")
    publish(base, local_store, "models/base")
    publish(tmp_path / "transformer", local_store, "models/transformer")
    model = Model(LTX, "store:models/base", transformer="store:models/transformer", dtype="float32")
    pipeline = load(model, lambda prefix: local_folder(local_store, prefix, tmp_path / "cache"))
    assert type(pipeline.pipe).__name__ == LTX and pipeline.model is model
    with pytest.raises(NotFound):
        load(Model(LTX, "store:nothing"), lambda prefix: local_folder(local_store, prefix, tmp_path / "cache"))


def test_types_are_those_of_the_record_and_the_profile(tiny: Tiny) -> None:
    """Wan's decoder stays exact beside a shorter transformer, as its authors say; in float32 all is float32."""
    pipe = load(Model(CLASSES["wan"], str(tiny("wan")), dtype="bfloat16"), no_store).pipe
    assert (pipe.transformer.dtype, pipe.text_encoder.dtype, pipe.vae.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )
    pipe = load(Model(CLASSES["wan"], str(tiny("wan")), dtype="float32"), no_store).pipe
    assert (pipe.transformer.dtype, pipe.vae.dtype) == (torch.float32, torch.float32)


def test_without_a_gpu_nothing_is_offloaded(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    """diffusers would raise for it; what was asked for in vain is in the log."""
    model = Model(LTX, str(tiny("ltx")), dtype="float32", memory=Memory("model", False, "fp8"))
    with caplog.at_level(logging.WARNING, logger="poorwill.media.loading"):
        pipeline = load(model, no_store, "cpu")
    assert (pipeline.plan.offload, pipeline.plan.quantization) == ("none", "none")
    assert not pipeline.pipe.vae.use_tiling and len(caplog.records) == 2
    assert load(Model(LTX, str(tiny("ltx")), dtype="float32"), no_store).pipe.vae.use_tiling


def test_the_size_that_weights_need(loaded: Callable[[str], LoadedPipeline]) -> None:
    """Read from the loaded pipeline, never less than its profile's."""
    for name, multiple in (("skyreels", 16), ("ltx", 32), ("wan", 16)):
        assert loaded(name).size_multiple == multiple


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is not looked for on the hub either."""
    with pytest.raises(UsageError, match="no such folder"):
        load(Model(LTX, str(tmp_path / "missing")), no_store)


def test_another_class_than_the_weights(tiny: Tiny) -> None:
    """The class is the record's; weights that do not fit it are an error that names both."""
    with pytest.raises(UsageError, match=f"{tiny('wan')} cannot be loaded as {LTX}"):
        load(Model(LTX, str(tiny("wan"))), no_store)


def test_a_file_that_is_damaged(tiny: Tiny, tmp_path: Path) -> None:
    """Cut short, as a full disk leaves it."""
    folder = copied(tiny("ltx"), tmp_path / "ltx")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(Corrupt, match="a file is damaged"):
        load(Model(LTX, str(folder)), no_store)


def test_pickles_are_not_read(tiny: Tiny, tmp_path: Path) -> None:
    """Reading one may run what is in it: not even one that holds the right weights and nothing else."""
    folder = copied(tiny("ltx"), tmp_path / "ltx")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(UsageError, match="safetensors"):
        load(Model(LTX, str(folder)), no_store)


@pytest.mark.parametrize("where", ["pipeline", "component"])
def test_code_of_a_repository_is_not_run(tiny: Tiny, tmp_path: Path, where: str) -> None:
    """Neither a pipeline of its own nor a component of its own."""
    folder, ran = copied(tiny("ltx"), tmp_path / "ltx"), tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(ran)!r}).touch()\nclass Own: pass\n"
    index = json.loads((folder / "model_index.json").read_text())
    if where == "pipeline":
        index["_class_name"] = ["own", "Own"]
        (folder / "own.py").write_text(code)
    else:
        index["transformer"] = ["own", "Own"]
        (folder / "transformer" / "own.py").write_text(code)
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError):
        load(Model(LTX, str(folder)), no_store)
    assert not ran.exists()


def hub_error(kind: type[Exception], status: int) -> Exception:
    request = httpx2.Request("GET", "http://hub.test/a/b")
    return kind("said the hub", response=httpx2.Response(status, request=request))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (hub_error(huggingface_hub.errors.HfHubHTTPError, 503), SourceUnavailable),
        (hub_error(huggingface_hub.errors.HfHubHTTPError, 429), SourceUnavailable),
        (hub_error(huggingface_hub.errors.RepositoryNotFoundError, 404), UsageError),
        (hub_error(huggingface_hub.errors.GatedRepoError, 403), UsageError),
        (hub_error(huggingface_hub.errors.RevisionNotFoundError, 404), UsageError),
        (httpx2.ConnectError("no route"), SourceUnavailable),
        (httpx2.ReadTimeout("slow"), SourceUnavailable),
        (huggingface_hub.errors.OfflineModeIsEnabled("offline"), SourceUnavailable),
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (PermissionError(13, "Permission denied"), UsageError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_the_type_of_error_by_its_cause(error: Exception, expected: type[PoorwillError]) -> None:
    """Causes that may pass by themselves are transient; the others need a person."""

    def failing(prefix: str) -> Path:
        raise error

    with pytest.raises(expected) as failed:
        load(Model(LTX, "store:anything"), failing)
    assert type(failed.value) is expected
    assert "anything" in failed.value.message or expected is OutOfMemory


def test_a_reason_is_found_below_another_error() -> None:
    """diffusers says 'there was an error' and keeps the hub's answer as its cause."""

    def failing(prefix: str) -> Path:
        try:
            raise hub_error(huggingface_hub.errors.HfHubHTTPError, 502)
        except OSError as cause:
            raise OSError("there was an error") from cause

    with pytest.raises(SourceUnavailable, match="the hub answered 502"):
        load(Model(LTX, "store:anything"), failing)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (profiles.Profile("NoSuchPipeline", "None", 1, 16, 16, 1, 1), "has no pipeline class"),
        (profiles.Profile("AutoencoderKLWan", "Other", 1, 16, 16, 1, 1), "has no pipeline class"),
        (profiles.Profile("WanPipeline", "Text", 1, 16, 16, 1, 1, packages=("no_such_package",)), "pip install"),
        (profiles.Profile("LTXPipeline", "Text", 1, 16, 16, 1, 1), "passes image, which it does not take"),
    ],
    ids=lambda value: getattr(value, "pipeline_class", None),
)
def test_profiles_that_do_not_fit_the_installed_packages(profile: profiles.Profile, said: str) -> None:
    """By name: a newer diffusers, a package, an argument."""
    profiles.register(profile)
    with pytest.raises(UsageError, match=said):
        load(Model(profile.pipeline_class, "store:anything"), no_store)


def test_an_attention_backend_that_is_not_installed(tiny: Tiny) -> None:
    """When the model is loaded, and not by the first user's video."""
    with pytest.raises(UsageError, match="attention 'flash' cannot be used here"):
        load(Model(LTX, str(tiny("ltx")), memory=Memory(attention="flash")), no_store)


def test_svd_has_no_transformer(tiny: Tiny) -> None:
    """To give one is an error, and not ignored."""
    model = Model("StableVideoDiffusionPipeline", str(tiny("ltx")), transformer=str(tiny("ltx")))
    with pytest.raises(UsageError, match="has no transformer"):
        load(model, no_store)
