"""Generating with three real pipeline classes: what was asked for, the same again, stopped and usable again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from PIL import Image

from poorwill.errors import Cancelled, UsageError
from poorwill.media.inference import Frames, generate
from poorwill.media.loading import LoadedPipeline
from poorwill.media.parameters import Asked, resolve
from poorwill.media.stop import Stop

ASKED = Asked("a bird", seed=3, num_frames=9, height=32, width=32, steps=2)
names = pytest.mark.parametrize("name", ["skyreels", "ltx", "wan"])
Loaded = Callable[[str], LoadedPipeline]


def picture(seed: int) -> Image.Image:
    """Something with texture: tiny encoders do not see plain colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), np.uint8)
    return Image.fromarray(noise).resize((100, 80))


def made(pipeline: LoadedPipeline, *, image: int = 1, stop: Stop | None = None, **other: Any) -> Frames:
    on_step = other.pop("on_step", lambda done, total: None)
    resolved = resolve(dataclasses.replace(ASKED, **other), pipeline.profile, pipeline.model)
    return generate(pipeline, picture(image), resolved, on_step=on_step, stop=stop or Stop())


@names
def test_the_frames_that_were_asked_for(loaded: Loaded, name: str) -> None:
    """Their number, size and type; each step is told once, in order."""
    told: list[tuple[int, int]] = []
    frames = made(loaded(name), height=64, width=32, num_frames=17, steps=3, on_step=lambda *step: told.append(step))
    assert (frames.shape, frames.dtype) == ((17, 64, 32, 3), np.uint8)
    assert frames.std() > 1  # noise, and no blank picture
    assert told == [(1, 3), (2, 3), (3, 3)]


@names
def test_a_seed_gives_the_same_video(loaded: Loaded, name: str) -> None:
    """To the bit; another seed another one. Nothing of one run is left for the next."""
    first = made(loaded(name))
    assert np.array_equal(first, made(loaded(name)))
    assert not np.array_equal(first, made(loaded(name), seed=4))


@names
def test_image_and_words_matter(loaded: Loaded, name: str) -> None:
    """All of them arrive: image, prompt, negative prompt, guidance. The last two only together do anything."""
    first = made(loaded(name))
    changes: list[dict[str, Any]] = [
        {"image": 2},
        {"prompt": "WWWW WWWW WWWW"},
        {"negative_prompt": "ZZZZ ZZZZ ZZZZ"},
        {"guidance": 20.0},
    ]
    for change in changes:
        assert not np.array_equal(first, made(loaded(name), **change)), change


@names
def test_a_stop_is_heard_at_the_next_step_and_all_goes_on(loaded: Loaded, name: str) -> None:
    """With its reason, before anything is decoded; the next video is what it would have been without."""
    expected, stop, told = made(loaded(name)), Stop(), []

    def on_step(done: int, total: int) -> None:
        told.append(done)
        stop.request("the client went away")

    with pytest.raises(Cancelled, match="the client went away"):
        made(loaded(name), stop=stop, on_step=on_step)
    assert told == [1]
    with pytest.raises(Cancelled):
        made(loaded(name), stop=stop, on_step=on_step)
    assert told == [1]  # it did not even begin
    stop.clear()
    assert np.array_equal(made(loaded(name), stop=stop), expected)


@names
def test_a_pipeline_without_a_callback_counts_by_its_scheduler(loaded: Loaded, name: str) -> None:
    """As HunyuanVideo-1.5 has none: the same steps, the same stop, the same video, and its scheduler as it was."""
    pipeline, told, stop = loaded(name), list[tuple[int, int]](), Stop()
    without = dataclasses.replace(pipeline, profile=dataclasses.replace(pipeline.profile, takes_callback=False))
    step = pipeline.pipe.scheduler.step
    assert np.array_equal(made(without, on_step=lambda *step: told.append(step)), made(pipeline))
    assert told == [(1, 2), (2, 2)]
    with pytest.raises(Cancelled):
        made(without, stop=stop, on_step=lambda *step: stop.request("enough"))
    assert pipeline.pipe.scheduler.step == step and "step" not in vars(pipeline.pipe.scheduler)


def test_an_error_of_the_listener_passes(loaded: Loaded) -> None:
    """It is not taken for one of the GPU, whatever it is called, and the pipeline stays usable."""

    def on_step(done: int, total: int) -> None:
        raise RuntimeError("the reader of progress is gone")

    with pytest.raises(RuntimeError, match="the reader of progress"):
        made(loaded("ltx"), on_step=on_step)
    assert made(loaded("ltx")).shape == (9, 32, 32, 3)


@names
def test_frames_that_cannot_be_are_refused_before(loaded: Loaded, name: str) -> None:
    """The pipelines themselves would make 5 of 6, or fail in the middle."""
    told: list[int] = []
    with pytest.raises(UsageError, match="num_frames=6"):
        made(loaded(name), num_frames=6, on_step=lambda done, total: told.append(done))
    assert told == []


def test_attention_is_chosen_for_one_video(loaded: Loaded) -> None:
    """And not for the next model of the process, as diffusers' setting of it would be."""
    pipeline, before = loaded("ltx"), _AttentionBackendRegistry.get_active_backend()[0]
    seen: list[str] = []

    def on_step(done: int, total: int) -> None:
        seen.append(_AttentionBackendRegistry.get_active_backend()[0].value)

    chosen = dataclasses.replace(pipeline, plan=dataclasses.replace(pipeline.plan, attention="_native_math"))
    assert made(chosen, on_step=on_step).shape == (9, 32, 32, 3)
    assert seen == ["_native_math"] * 2
    assert _AttentionBackendRegistry.get_active_backend()[0] == before
