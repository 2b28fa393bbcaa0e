"""From a model's record to a pipeline that can generate. Imports torch and diffusers: for GPU processes only."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from safetensors import SafetensorError

from poorwill.errors import Corrupt, PoorwillError, SourceUnavailable, UsageError
from poorwill.media import gpu_placement, memory
from poorwill.media.device import device_error, memory_bytes, release_after
from poorwill.media.memory import Plan
from poorwill.media.model import STORE_SCHEME, Model
from poorwill.media.profiles import Profile, profile_of

log = logging.getLogger(__name__)
FolderOf = Callable[[str], Path]
_HubErrors: tuple[type[Exception], ...] = (HfHubHTTPError.__bases__[0], ConnectionError, TimeoutError)
"""Of whichever HTTP client the hub's library has, which it has changed before; and of being offline on purpose."""
_LoadErrors: tuple[type[Exception], ...] = (
    *_HubErrors, OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, MemoryError,
    SafetensorError,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LoadedPipeline:
    """A pipeline of diffusers, `pipe`, on its device, and what it was made of."""

    pipe: Any
    model: Model
    profile: Profile
    device: str
    plan: Plan

    @property
    def size_multiple(self) -> int:
        """What height and width must be multiples of: for some weights it is more than their class's profile says."""
        spatial = getattr(self.pipe, "vae_scale_factor_spatial", None)
        patch = getattr(getattr(getattr(self.pipe, "transformer", None), "config", None), "patch_size", None)
        if not isinstance(spatial, int) or patch is None:
            return self.profile.size_multiple
        return math.lcm(self.profile.size_multiple, spatial * (patch if isinstance(patch, int) else patch[-1]))

    @property
    def noise_device(self) -> str:
        """Where noise is drawn: on the CPU, so that a seed means the same everywhere, unless a decoder insists.

        LTX's from 0.9.1 on draws noise itself, and refuses a generator of another device than its own.
        """
        config = getattr(getattr(self.pipe, "vae", None), "config", None)
        insists = self.profile.noise_on_device and getattr(config, "timestep_conditioning", True)
        return self.device if insists else "cpu"


def load(model: Model, folder_of: FolderOf, device: str | None = None) -> LoadedPipeline:
    """The model's pipeline in memory, as its plan says. Takes minutes for real weights.

    `folder_of` gives the local folder for the prefix of a "store:prefix". `device` is a name of torch; None: the GPU
    if there is one. Weights come as safetensors and no code of a repository is run. UsageError for a record, package
    or combination that cannot be; SourceUnavailable if the hub does not answer; Corrupt for damaged weights;
    OutOfMemory and DeviceFailed; errors of `folder_of` pass.
    """
    model.check()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    profile = profile_of(model.pipeline_class)
    pipeline_class = _pipeline_class(profile)
    plan = memory.plan(model.memory, memory_bytes(device))
    for note in plan.notes:
        log.warning("%s: %s", model.source, note)
    gpu_placement.check_attention(plan.attention)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()  # in a log they are one long line
    try:
        pipe = _pipe(pipeline_class, model, _dtypes(model, profile, device), plan, folder_of)
        gpu_placement.place(pipe, plan, device, _dtype(model.dtype))
    except PoorwillError:
        raise
    except _LoadErrors as error:
        release_after(error)
        raise _load_error(error, model) from error
    pipe.set_progress_bar_config(disable=True)
    log.info("%s on %s: offload %s, quantization %s", model.source, device, plan.offload, plan.quantization)
    return LoadedPipeline(pipe, model, profile, device, plan)


def _pipeline_class(profile: Profile) -> Any:
    """The class, if this installation has it and all that it needs, and it takes what the profile passes."""
    name = profile.pipeline_class
    for package in profile.packages:
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"{name} needs the package {package}, which is not installed: 'pip install {package}'")
    found = getattr(diffusers, name, None)
    if not isinstance(found, type) or not issubclass(found, diffusers.DiffusionPipeline):
        raise UsageError(f"diffusers {diffusers.__version__} has no pipeline class {name}: install a newer one")
    unknown = profile.argument_names() - inspect.signature(found.__call__).parameters.keys()
    if unknown:
        raise UsageError(f"the profile of {name} passes {', '.join(sorted(unknown))}, which it does not take")
    return found


def _pipe(pipeline_class: Any, model: Model, dtypes: dict[str, torch.dtype], plan: Plan, folder_of: FolderOf) -> Any:
    place, revision = _place(model.source, model.revision, folder_of)
    given: dict[str, Any] = {}
    if model.transformer:
        given["transformer"] = _transformer(pipeline_class, model, plan, folder_of)
    return pipeline_class.from_pretrained(
        place,
        revision=revision,
        dtype=dtypes,
        use_safetensors=True,
        trust_remote_code=False,
        quantization_config=gpu_placement.pipeline_quantization(plan, _dtype(model.dtype)),
        **given,
    )


def _transformer(pipeline_class: Any, model: Model, plan: Plan, folder_of: FolderOf) -> Any:
    """The transformer that lies elsewhere, loaded by the class that the pipeline names as its component's type."""
    types = [kind for kind in pipeline_class._get_signature_types().get("transformer", ()) if isinstance(kind, type)]
    kinds: list[Any] = [kind for kind in types if issubclass(kind, diffusers.ModelMixin)]
    if not kinds:
        raise UsageError(f"{model.pipeline_class} has no transformer: leave transformer={model.transformer!r} out")
    place, revision = _place(model.transformer, model.transformer_revision, folder_of)
    dtype = _dtype(model.dtype)
    return kinds[0].from_pretrained(
        place,
        subfolder=_transformer_subfolder(kinds[0], place, revision),
        revision=revision,
        dtype=dtype,
        use_safetensors=True,
        quantization_config=gpu_placement.quantization_of("transformer", plan, dtype),
    )


def _transformer_subfolder(kind: Any, place: str, revision: str | None) -> str | None:
    """Where the transformer is in its repository: at the top, as in SkyReels', or where pipelines keep theirs."""
    try:
        kind.load_config(place, revision=revision)
    except OSError as error:
        not_there = any(isinstance(cause, EntryNotFoundError) for cause in _chain(error))
        if not not_there and not Path(place, "transformer").is_dir():
            raise
        return "transformer"
    return None


def _place(source: str, revision: str, folder_of: FolderOf) -> tuple[str, str | None]:
    """A source and its revision as `from_pretrained` takes them. UsageError for a folder that is not there."""
    if source.startswith(STORE_SCHEME):
        return str(folder_of(source[len(STORE_SCHEME) :])), None
    if source.startswith("/"):
        if not Path(source).is_dir():
            raise UsageError(f"{source}: there is no such folder on this machine: put the weights there first")
        return source, None
    return source, revision


def _dtypes(model: Model, profile: Profile, device: str) -> dict[str, torch.dtype]:
    """By component. The CPU cannot compute in float16."""
    kept = ("float32",) if device == "cpu" else ("float32", "float16")
    others = {name: _dtype(dtype) for name, dtype in profile.component_dtypes if dtype in kept}
    return {"default": _dtype(model.dtype)} | (others if model.dtype != "float32" else {})


def _dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)
    return found


def _load_error(error: Exception, model: Model) -> PoorwillError:
    failed = device_error(error, "choose another offload or quantization in the model's memory")
    if failed is not None:
        return failed
    what = f"the weights of {model.source}" + (f" with {model.transformer}" if model.transformer else "")
    for cause in _chain(error):
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            if status >= 500 or status in (408, 425, 429):
                return SourceUnavailable(f"{what}: the hub answered {status}")
            remedy = "check name and revision, and the token if they are private"
            return UsageError(f"{what}: the hub answered {status}: {remedy}")
        if isinstance(cause, _HubErrors):
            return SourceUnavailable(f"{what}: the hub did not answer: {type(cause).__name__}")
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    if any(isinstance(cause, SafetensorError) for cause in _chain(error)):
        return Corrupt(f"{what}: a file is damaged: {first_line}; download it again")
    return UsageError(f"{what} cannot be loaded as {model.pipeline_class}: {first_line}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
