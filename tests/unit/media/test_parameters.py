"""From what is asked for to what a video is made with: unchanged, or refused with everything that is wrong."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poorwill.errors import UsageError
from poorwill.media import profiles
from poorwill.media.model import Model
from poorwill.media.parameters import (
    FPS_MAX,
    GUIDANCE_MAX,
    PROMPT_CHARACTERS_MAX,
    SEED_MAX,
    Asked,
    Resolved,
    resolve,
)
from poorwill.media.profiles import Profile, profile_of

PROFILES = tuple(profiles.PROFILES.values())
LTX, SKYREELS = profile_of("LTXImageToVideoPipeline"), profile_of("HunyuanSkyreelsImageToVideoPipeline")
SVD, SIZELESS = profile_of("StableVideoDiffusionPipeline"), profile_of("HunyuanVideo15ImageToVideoPipeline")
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def made(asked: Asked, profile: Profile = LTX, **defaults: float) -> Resolved:
    return resolve(asked, profile, Model(profile.pipeline_class, "/w", defaults=defaults))


def problems(asked: Asked, profile: Profile = LTX, **defaults: float) -> dict[str, dict[str, Any]]:
    """By their fields; they are in the message too."""
    with pytest.raises(UsageError) as refused:
        made(asked, profile, **defaults)
    found = {problem["field"]: problem for problem in refused.value.facts["problems"]}
    assert len(found) == len(refused.value.facts["problems"])
    for problem in found.values():
        assert f"{problem['field']}={problem['value']!r}: {problem['rule']}" in refused.value.message
    json.dumps(refused.value.to_wire())
    return found


@st.composite
def possible(draw: st.DrawFn) -> tuple[Profile, Asked]:
    """What a profile allows, every field given that it takes."""
    profile = draw(st.sampled_from(PROFILES))
    sides = st.integers(1, 1024 // profile.size_multiple).map(lambda k: k * profile.size_multiple)
    last = (profile.frames_max - profile.frame_offset) // profile.frame_step
    frames = st.integers(0 if profile.frame_offset else 1, last)
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
    height = draw(sides)
    return profile, Asked(
        prompt=draw(text) if profile.takes_prompt else None,
        negative_prompt=draw(text) if profile.takes_negative_prompt else None,
        seed=draw(st.integers(0, SEED_MAX)),
        num_frames=draw(frames) * profile.frame_step + profile.frame_offset,
        height=height if profile.takes_size else None,
        width=draw(sides.filter(lambda w: w * height <= profile.pixels_max)) if profile.takes_size else None,
        steps=draw(st.integers(1, profile.steps_max)),
        guidance=draw(st.floats(0, GUIDANCE_MAX)) if profile.guidance_argument else None,
        fps=draw(st.integers(1, FPS_MAX)),
    )


@untimed
@given(possible())
def test_valid_values_are_used_unchanged(given_: tuple[Profile, Asked]) -> None:
    """Each value that was given is the one used, and the result, asked for again, is itself."""
    profile, asked = given_
    resolved = made(asked, profile)
    for name, value in dataclasses.asdict(asked).items():
        if value is not None:
            assert getattr(resolved, name) == value
    assert made(Asked(**_taken(resolved, profile)), profile) == resolved
    assert Resolved(**json.loads(json.dumps(asdict(resolved)))) == resolved


def _taken(resolved: Resolved, profile: Profile) -> dict[str, Any]:
    left_out = set() if profile.takes_prompt else {"prompt", "negative_prompt"}
    return {name: value for name, value in asdict(resolved).items() if name not in left_out}


@untimed
@given(
    st.sampled_from(PROFILES),
    st.integers(-100, 2000),
    st.integers(-100, 3000),
    st.integers(-100, 3000),
    st.integers(-10, 300),
    st.floats(allow_nan=True),
)
def test_invalid_values_name_the_nearest_valid_ones(
    profile: Profile, frames: int, height: int, width: int, steps: int, guidance: float
) -> None:
    """Either all values are used as they are, or each wrong one is named with nearest values that are accepted."""
    asked = Asked(
        prompt="a bird" if profile.takes_prompt else None,
        seed=1,
        num_frames=frames,
        height=height if profile.takes_size else None,
        width=width if profile.takes_size else None,
        steps=steps,
        guidance=guidance if profile.guidance_argument else None,
    )
    try:
        resolved = made(asked, profile)
    except UsageError as refused:
        for problem in refused.facts["problems"]:
            for value in problem["nearest"]:
                if "x" in problem["field"]:
                    mended = dict(zip(("height", "width"), map(int, value.split("x")), strict=True))
                else:
                    mended = {problem["field"]: value}
                again = dataclasses.replace(asked, **mended)
                assert problem["field"] not in _wrong(again, profile)
    else:
        assert (resolved.num_frames, resolved.steps) == (frames, steps)


def _wrong(asked: Asked, profile: Profile) -> set[str]:
    try:
        made(asked, profile)
    except UsageError as refused:
        return {problem["field"] for problem in refused.facts["problems"]}
    return set()


def test_all_problems_in_one_error() -> None:
    """Nine values, nine problems, in one error."""
    found = problems(
        Asked(
            negative_prompt="x" * (PROMPT_CHARACTERS_MAX + 1),
            seed=-1,
            num_frames=6,
            height=500,
            width=0,
            steps=0,
            guidance=1e9,
            fps=0,
        )
    )
    assert set(found) == {f.name for f in dataclasses.fields(Asked)}
    assert found["num_frames"]["nearest"] == (1, 9) and "8k+1 for LTX" in found["num_frames"]["rule"]
    assert found["height"]["nearest"] == (480, 512)
    assert found["width"]["nearest"] == (32,)


def test_a_sentence_for_people() -> None:
    """What stands in a log or an answer of the API."""
    with pytest.raises(UsageError) as refused:
        made(Asked("a bird", num_frames=6))
    assert refused.value.message == (
        "LTX cannot make this video: num_frames=6: must be 8k+1 for LTX, at most 257: 1 or 9"
    )


def test_a_picture_may_be_wide_or_high_but_not_both() -> None:
    """The bound is on pixels; both ways out are named."""
    found = problems(Asked("a bird", height=1280, width=1280))
    assert found["height x width"]["nearest"] == ("1280x704", "704x1280")


@pytest.mark.parametrize("value", [True, 9.0, "9", [9], float("inf"), 10**400, -(10**5000)], ids=type)
def test_whole_numbers_only(value: Any) -> None:
    """What JSON or a form may hold instead is refused, and shown in a message of bounded length."""
    found = problems(Asked("a bird", num_frames=value, steps=value, seed=value))
    assert set(found) == {"num_frames", "steps", "seed"}
    assert all(len(str(problem["value"])) < 60 for problem in found.values())


@pytest.mark.parametrize("value", [True, "3", float("nan"), float("inf"), 10**400, -1], ids=type)
def test_a_number_is_finite(value: Any) -> None:
    """NaN compares with nothing: it must not slip through a bound."""
    found = problems(Asked("a bird", guidance=value, fps=value))
    assert set(found) == {"guidance", "fps"}
    assert all(one == one for problem in found.values() for one in problem["nearest"])


@pytest.mark.parametrize(("text", "rule"), [("\ud800", "valid Unicode"), (b"x", "must be a text")])
def test_a_prompt_is_a_text(text: Any, rule: str) -> None:
    """Half of a surrogate pair cannot be written anywhere later."""
    assert rule in problems(Asked(text))["prompt"]["rule"]


def test_a_field_that_the_pipeline_does_not_take_is_an_error() -> None:
    """Ignoring it would be a silent change."""
    assert set(problems(Asked("a bird", "fog"), SVD)) == {"prompt", "negative_prompt"}
    assert set(problems(Asked("a bird", height=480, width=848, guidance=6.0), SIZELESS)) == {
        "height",
        "width",
        "guidance",
    }
    assert made(Asked(), SVD).prompt == ""
    sizeless = made(Asked("a bird"), SIZELESS)
    assert (sizeless.height, sizeless.width, sizeless.guidance) == (None, None, None)


def test_a_seed_is_drawn() -> None:
    """Different ones, each of which any JSON reader keeps."""
    seeds = {made(Asked("a bird")).seed for _ in range(20)}
    assert len(seeds) == 20 and all(0 <= seed <= SEED_MAX for seed in seeds)
    assert all(int(float(seed)) == seed for seed in seeds)


def test_a_model_has_its_own_defaults_and_bounds() -> None:
    """They take the place of the profile's, and are held to the same rules."""
    resolved = made(Asked("a bird"), height=480, width=832, steps=8, fps=30)
    assert (resolved.height, resolved.width, resolved.steps, resolved.fps) == (480, 832, 8, 30)
    assert "at most 9" in problems(Asked("a bird", num_frames=17), num_frames=9, frames_max=9)["num_frames"]["rule"]
    assert problems(Asked("a bird", height=480, width=832), size_multiple=64)["height"]["nearest"] == (448, 512)
    assert set(problems(Asked("a bird"), steps=101)) == {"steps"}
    assert made(Asked("a bird", steps=101), steps_max=200).steps == 101
