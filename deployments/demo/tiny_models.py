"""Image-to-video pipelines of a few hundred kilobytes with random weights: for the demo, the tests and the benchmark.

Made from code alone, in seconds, without a network, and the same each time. Every folder is what `save_pretrained`
writes, so that the ordinary code loads it; the rules for sizes and frames are those of the real pipelines, because the
autoencoders compress as the real ones do. What they show is noise.

    python -m deployments.demo.tiny_models skyreels|ltx|wan FOLDER
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
import transformers

SEED = 7
_LETTERS = [chr(code) for code in range(0x21, 0x7F)]


def make(name: str, folder: str | os.PathLike[str]) -> Path:
    """One of PIPELINES in `folder`, which is made: whole, or not at all."""
    made = Path(folder)
    draft = made.with_name(f".{made.name}-draft")
    shutil.rmtree(draft, ignore_errors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        PIPELINES[name]().save_pretrained(draft, safe_serialization=True)
    return draft.rename(made)


def _skyreels() -> diffusers.DiffusionPipeline:
    """Sizes: multiples of 16, frames: 4k+1."""
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=8,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    vae = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
    )
    llama, clip = _llama_tokenizer(), _clip_tokenizer()
    return diffusers.HunyuanSkyreelsImageToVideoPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder=transformers.LlamaModel(
            transformers.LlamaConfig(
                vocab_size=len(llama),
                hidden_size=16,
                intermediate_size=32,
                num_attention_heads=4,
                num_hidden_layers=3,
                pad_token_id=llama.pad_token_id,
            )
        ),
        tokenizer=llama,
        text_encoder_2=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(clip),
                hidden_size=8,
                intermediate_size=16,
                num_attention_heads=2,
                num_hidden_layers=1,
                bos_token_id=clip.bos_token_id,
                eos_token_id=clip.eos_token_id,
                pad_token_id=clip.pad_token_id,
            )
        ),
        tokenizer_2=clip,
    )


def _ltx() -> diffusers.DiffusionPipeline:
    """Sizes: multiples of 32, frames: 8k+1."""
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=16,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(4, 4, 4, 4),
        decoder_block_out_channels=(4, 4, 4, 4),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        timestep_conditioning=True,
    )
    tokenizer = _t5_tokenizer()
    return diffusers.LTXImageToVideoPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=transformers.T5EncoderModel(_t5_config(transformers.T5Config, tokenizer)),
        tokenizer=tokenizer,
    )


def _wan() -> diffusers.DiffusionPipeline:
    """Like Wan 2.2, without an image encoder. Sizes: multiples of 16, frames: 4k+1."""
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=36,
        out_channels=16,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=64,
    )
    tokenizer = _t5_tokenizer()
    return diffusers.WanImageToVideoPipeline(
        transformer=transformer,
        vae=diffusers.AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        text_encoder=transformers.UMT5EncoderModel(_t5_config(transformers.UMT5Config, tokenizer)),
        tokenizer=tokenizer,
        image_encoder=None,
        image_processor=None,
        transformer_2=None,
    )


def _t5_config(
    kind: Callable[..., transformers.PretrainedConfig], tokenizer: transformers.PreTrainedTokenizerBase
) -> transformers.PretrainedConfig:
    return kind(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)


def _t5_tokenizer() -> transformers.T5TokenizerFast:
    """Printable ASCII, a letter a token."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in _LETTERS)]
    return transformers.T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=128)


def _clip_tokenizer() -> transformers.CLIPTokenizer:
    """Printable ASCII, a letter a token; the last letter of a word has `</w>`."""
    names = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab=_numbered(names), merges=[], model_max_length=77)


def _llama_tokenizer() -> transformers.LlamaTokenizerFast:
    """Printable ASCII, a letter a token."""
    names = ["<unk>", "<s>", "</s>", "<pad>", "▁", *_LETTERS]
    return transformers.LlamaTokenizerFast(
        vocab=_numbered(names), merges=[], pad_token="<pad>", padding_side="right", model_max_length=512
    )


def _numbered(names: list[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


PIPELINES: dict[str, Callable[[], diffusers.DiffusionPipeline]] = {"skyreels": _skyreels, "ltx": _ltx, "wan": _wan}

if __name__ == "__main__":
    make(*sys.argv[1:])
