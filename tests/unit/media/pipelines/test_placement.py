"""Carrying out a plan: the calls that diffusers gets, and what can be had without a GPU for real."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from poorwill.errors import UsageError
from poorwill.media import gpu_placement
from poorwill.media.inference import generate
from poorwill.media.loading import load
from poorwill.media.memory import Plan
from poorwill.media.model import Model
from poorwill.media.parameters import Asked, resolve
from poorwill.media.stop import Stop
from tests.unit.media.pipelines.conftest import CLASSES

Call = tuple[str, dict[str, Any]]


class Recorder:
    """Takes the calls that a diffusers class takes, and no others."""

    def __init__(self, kind: type, calls: list[Call]) -> None:
        self._kind, self._calls = kind, calls

    def __getattr__(self, name: str) -> Any:
        method = inspect.signature(getattr(self._kind, name))  # AttributeError: it has no such method

        def call(*given: Any, **named: Any) -> None:
            bound = method.bind(self, *given, **named)
            self._calls.append((name, {k: v for k, v in bound.arguments.items() if k != "self"}))

        return call


class RecordedPipe(Recorder):
    def __init__(self) -> None:
        self.calls: list[Call] = []
        super().__init__(diffusers.LTX2ImageToVideoPipeline, self.calls)
        self.transformer = Recorder(diffusers.LTX2VideoTransformer3DModel, self.calls)
        self.vae = Recorder(diffusers.AutoencoderKLLTX2Video, self.calls)
        self.audio_vae = self.vocoder = SimpleNamespace()
        self.transformer_2 = self.unet = None


def planned(offload: str = "none", quantization: str = "none", *, tiling: bool = False, compiled: bool = False) -> Plan:
    return Plan(offload, quantization, tiling, "", compiled)


def calls(plan: Plan) -> list[Call]:
    pipe = RecordedPipe()
    gpu_placement.place(pipe, plan, "cuda", torch.bfloat16)
    return pipe.calls


@pytest.mark.parametrize(
    ("offload", "call"),
    [
        ("none", ("to", {"args": ("cuda",)})),
        ("model", ("enable_model_cpu_offload", {"device": "cuda"})),
        ("sequential", ("enable_sequential_cpu_offload", {"device": "cuda"})),
        (
            "group",
            (
                "enable_group_offload",
                {
                    "onload_device": torch.device("cuda"),
                    "offload_type": "leaf_level",
                    "use_stream": True,
                    "exclude_modules": ["vae", "audio_vae", "vocoder"],
                },
            ),
        ),
    ],
)
def test_each_offload_is_one_call_that_diffusers_takes(offload: str, call: Call) -> None:
    """The recorder refuses a method or an argument that the installed class lacks."""
    assert calls(planned(offload)) == [call]


def test_the_order_is_the_one_that_works() -> None:
    """Weights shrink before they are moved, and are compiled where they are."""
    found = calls(planned("group", "fp8", tiling=True, compiled=True))
    assert [name for name, _ in found] == [
        "enable_tiling",
        "enable_layerwise_casting",
        "enable_group_offload",
        "compile_repeated_blocks",
    ]
    assert found[1][1] == {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.bfloat16}


@pytest.mark.parametrize("name", ["skyreels", "ltx", "wan"])
def test_weights_in_fp8_compute_in_the_models_type(tiny: Callable[[str], Path], name: str) -> None:
    """Really done, for it needs no GPU: a quarter of the memory, and nearly the same video."""
    model = Model(CLASSES[name], str(tiny(name)), dtype="float32")
    pipeline = load(model, Path)
    asked = Asked("a bird", seed=1, num_frames=9, height=32, width=32, steps=1)
    resolved = resolve(asked, pipeline.profile, model)

    def made() -> Any:
        frames = generate(pipeline, Image.new("RGB", (32, 32)), resolved, on_step=lambda *step: None, stop=Stop())
        return frames.astype(float)

    exact = made()
    gpu_placement.place(pipeline.pipe, planned(quantization="fp8"), "cpu", torch.float32)
    kinds = {weight.dtype for weight in pipeline.pipe.transformer.parameters()}
    assert torch.float8_e4m3fn in kinds
    assert np.abs(made() - exact).mean() < 0.2 * exact.std() + 10
    assert {weight.dtype for weight in pipeline.pipe.transformer.parameters()} == kinds


def test_a_model_that_cannot_be_compiled() -> None:
    """diffusers names its attribute; people need the field."""
    pipe = SimpleNamespace(vae=None, transformer=diffusers.AutoencoderKL(), to=lambda device: None)
    with pytest.raises(UsageError, match="compile: diffusers cannot compile AutoencoderKL"):
        gpu_placement.place(pipe, planned(compiled=True), "cpu", torch.float32)


def test_4bit_is_for_what_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transformer by diffusers' configuration, the text encoder by transformers'; decoders stay exact.

    Both libraries look for the package's version alone, until weights are loaded.
    """
    (tmp_path / "bitsandbytes-0.49.0.dist-info").mkdir()
    (tmp_path / "bitsandbytes-0.49.0.dist-info" / "METADATA").write_text("Name: bitsandbytes\nVersion: 0.49.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    plan = planned(quantization="4bit")
    transformer = gpu_placement.quantization_of("transformer", plan, torch.bfloat16)
    encoder = gpu_placement.quantization_of("text_encoder", plan, torch.bfloat16)
    assert isinstance(transformer, diffusers.BitsAndBytesConfig)
    assert isinstance(encoder, transformers.BitsAndBytesConfig)
    for config in (transformer, encoder):
        assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
        assert config.bnb_4bit_compute_dtype is torch.bfloat16
    assert gpu_placement.quantization_of("vae", plan, torch.bfloat16) is None
    mapping = gpu_placement.pipeline_quantization(plan, torch.bfloat16).quant_mapping
    assert mapping.keys() == {"transformer", "transformer_2", "unet", "text_encoder"}


@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_other_plans_quantize_nothing_while_loading(quantization: str) -> None:
    """fp8 is done to the loaded pipeline."""
    assert gpu_placement.pipeline_quantization(planned(quantization=quantization), torch.bfloat16) is None
