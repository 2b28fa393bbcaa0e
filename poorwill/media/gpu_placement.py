"""Carrying out a plan (memory.py) on a pipeline of diffusers, with the library's own means.

Quantized components are quantized while they are loaded; everything else is done to the loaded pipeline: the order is
the one that diffusers tests: fp8 storage, then offload, then compile.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from poorwill.errors import UsageError
from poorwill.media.memory import Plan

DENOISERS = ("transformer", "transformer_2", "unet")
TEXT_ENCODERS = ("text_encoder",)
"""Those with billions of parameters: a second encoder is small where there is one."""
DECODERS = ("vae", "audio_vae", "vocoder")
"""They stay on the GPU when the rest is offloaded in groups: in tiles, prefetching takes the wrong layers."""


def quantization_of(component: str, plan: Plan, dtype: torch.dtype) -> Any:
    """What `from_pretrained` is given to quantize one component, or None. It needs a GPU, and the plan's package."""
    if component in DENOISERS:
        import diffusers as library
    elif component in TEXT_ENCODERS:
        import transformers as library
    else:
        return None
    if plan.quantization == "4bit":
        return library.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
        )
    if plan.quantization == "int8":
        torchao = importlib.import_module("torchao.quantization")
        return library.TorchAoConfig(torchao.Int8WeightOnlyConfig())
    return None


def pipeline_quantization(plan: Plan, dtype: torch.dtype) -> Any:
    """The same for all components of a pipeline, as `DiffusionPipeline.from_pretrained` takes it, or None."""
    from diffusers.quantizers import PipelineQuantizationConfig

    found = {name: quantization_of(name, plan, dtype) for name in (*DENOISERS, *TEXT_ENCODERS)}
    mapping = {name: config for name, config in found.items() if config is not None}
    return PipelineQuantizationConfig(quant_mapping=mapping) if mapping else None


def place(pipe: Any, plan: Plan, device: str, dtype: torch.dtype) -> None:
    """Tiling, fp8 storage, the place of the weights and compilation, as the plan says. `dtype` is that of computing.

    UsageError for what this pipeline or this machine cannot do.
    """
    if plan.vae_tiling and hasattr(pipe.vae, "enable_tiling"):
        pipe.vae.enable_tiling()
    denoisers = [found for name in DENOISERS if (found := getattr(pipe, name, None)) is not None]
    if plan.quantization == "fp8":
        for denoiser in denoisers:
            denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    _offload(pipe, plan.offload, device)
    if plan.compile:
        for denoiser in denoisers:
            _compile(denoiser)


def check_attention(attention: str) -> None:
    """UsageError if this machine lacks what an attention backend needs: it is chosen again for each video."""
    if not attention:
        return
    from diffusers.models.attention_dispatch import attention_backend

    try:
        with attention_backend(attention):
            pass
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"attention {attention!r} cannot be used here: {error}") from error


def _offload(pipe: Any, offload: str, device: str) -> None:
    if offload == "none":
        pipe.to(device)
    elif offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        decoders = [name for name in DECODERS if getattr(pipe, name, None) is not None]
        pipe.enable_group_offload(
            onload_device=torch.device(device), offload_type="leaf_level", use_stream=True, exclude_modules=decoders
        )


def _compile(denoiser: Any) -> None:
    try:
        denoiser.compile_repeated_blocks()
    except ValueError as error:
        raise UsageError(f"compile: diffusers cannot compile {type(denoiser).__name__}: leave it out") from error
