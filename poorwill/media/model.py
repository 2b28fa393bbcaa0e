"""What a video model is: a pipeline class, where its weights are, and how they fit into memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from poorwill.errors import UsageError
from poorwill.media.profiles import ADJUSTABLE, profile_of
from poorwill.store.object_key import key_fault

DTYPES = ("bfloat16", "float16", "float32")
OFFLOADS = ("auto", "none", "model", "group", "sequential")
QUANTIZATIONS = ("auto", "none", "fp8", "int8", "4bit")
ATTENTIONS = (
    "native", "_native_cudnn", "_native_efficient", "_native_flash", "_native_math", "flex",
    "flash", "flash_varlen", "_flash_3", "_flash_varlen_3",
    "sage", "sage_varlen", "_sage_qk_int8_pv_fp8_cuda", "_sage_qk_int8_pv_fp8_cuda_sm90",
    "_sage_qk_int8_pv_fp16_cuda", "_sage_qk_int8_pv_fp16_triton",
    "xformers",
)  # fmt: skip
"""Names of diffusers' `AttentionBackendName`; not those ending in `_hub`, which fetch and run code from the hub."""
STORE_SCHEME = "store:"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")

Number = int | float


@dataclass(frozen=True, slots=True)
class Memory:
    """How the weights fit. `auto` is decided by the GPU's memory when the model is loaded (memory.py).

    `offload`: what waits in the host's memory. `vae_tiling`: decode in tiles. `quantization`: of the weights on the
    GPU. `attention`: one of ATTENTIONS, or "" for diffusers' default. `compile`: the transformer's repeated blocks,
    which makes the first video minutes slower.
    """

    offload: str = "auto"
    vae_tiling: bool = True
    quantization: str = "auto"
    attention: str = ""
    compile: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """One image-to-video model. Equal by value and hashable: it is the key of the pipeline that stays loaded.

    `source` is "org/name" on the Hugging Face hub, "/a/folder", or "store:prefix" below a prefix of an object store,
    whose weights are expected never to change. `revision` is the hub's commit, 40 hexadecimal digits. `transformer`
    and its revision say the same of a transformer that lies elsewhere. `defaults` are values that take the place of
    the profile's: a mapping of ADJUSTABLE names, kept as sorted pairs; `dict(model.defaults)` is the mapping again.
    """

    pipeline_class: str
    source: str
    revision: str = ""
    transformer: str = ""
    transformer_revision: str = ""
    dtype: str = "bfloat16"
    memory: Memory = Memory()
    defaults: Mapping[str, Number] | tuple[tuple[str, Number], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "defaults", tuple(sorted(dict(self.defaults).items())))

    def check(self) -> None:
        """UsageError that lists everything about this record that cannot be."""
        profile_of(self.pipeline_class)
        faults = [
            *_place_faults("source", self.source, self.revision),
            *(_place_faults("transformer", self.transformer, self.transformer_revision) if self.transformer else ()),
            *_choice_faults("dtype", self.dtype, DTYPES),
            *_choice_faults("memory.offload", self.memory.offload, OFFLOADS),
            *_choice_faults("memory.quantization", self.memory.quantization, QUANTIZATIONS),
            *_choice_faults("memory.attention", self.memory.attention, ("", *ATTENTIONS)),
            *_combination_faults(self.memory),
            *_default_faults(dict(self.defaults)),
        ]
        if self.transformer_revision and not self.transformer:
            faults.append("transformer_revision is given without a transformer: leave it out, or name the transformer")
        if faults:
            raise UsageError(f"the model {self.source[:120]!r} cannot be: {'; '.join(faults)}", faults=faults)


def _place_faults(field: str, place: str, revision: str) -> Iterator[str]:
    """What is wrong with a place of weights and its revision, in words."""
    revision_field = "revision" if field == "source" else f"{field}_revision"
    if place.startswith(("/", STORE_SCHEME)):
        if revision:
            yield f"{revision_field}={revision[:60]!r}: only repositories of the hub have one: leave it out"
        if place.startswith(STORE_SCHEME) and (fault := key_fault(place[len(STORE_SCHEME) :].strip("/"))):
            yield f"{field}={place[:120]!r}: not a prefix of a store: {fault}"
        if "\0" in place:
            yield f"{field} has a NUL in it"
    elif not _HUB_ID.fullmatch(place) or ".." in place:
        yield f"{field}={place[:120]!r}: expected 'organisation/name' on the hub, '/a/folder' or 'store:prefix'"
    elif not _COMMIT.fullmatch(revision):
        yield (
            f"{revision_field}={revision[:60]!r}: expected the commit of {place}, 40 hexadecimal digits: a branch or a "
            "tag may become other weights; the hub shows it under 'Files', 'History'"
        )


def _choice_faults(field: str, value: str, choices: tuple[str, ...]) -> Iterator[str]:
    if value not in choices:
        yield f"{field}={value!r}: expected one of {', '.join(choice or 'nothing' for choice in choices)}"


def _combination_faults(memory: Memory) -> Iterator[str]:
    if memory.offload == "sequential" and memory.quantization not in ("auto", "none"):
        yield "sequential offload moves plain weights only: with a quantization use offload 'group'"
    if memory.offload == "sequential" and memory.compile:
        yield "sequential offload and compile exclude each other: use offload 'group'"


def _default_faults(defaults: Mapping[str, Any]) -> Iterator[str]:
    for name, value in defaults.items():
        if name not in ADJUSTABLE:
            yield f"defaults: {name!r} is not one of {', '.join(ADJUSTABLE)}"
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
            yield f"defaults: {name}={value!r} is not a number from 0 on"
