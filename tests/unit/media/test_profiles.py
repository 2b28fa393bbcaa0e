"""The profiles of pipeline classes. Whether diffusers agrees: pipelines/test_diffusers_profiles.py."""

from __future__ import annotations

import dataclasses

import pytest

from poorwill.errors import UsageError
from poorwill.media import profiles
from poorwill.media.model import Model
from poorwill.media.parameters import Asked, arguments, resolve
from poorwill.media.profiles import ADJUSTABLE, Profile, profile_of, register

PROFILES = tuple(profiles.PROFILES.values())


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.label)
def test_the_defaults_are_possible(profile: Profile) -> None:
    """A request that sets nothing is never refused."""
    asked = Asked("a bird") if profile.takes_prompt else Asked()
    resolved = resolve(asked, profile, Model(profile.pipeline_class, "/w"))
    assert (resolved.num_frames, resolved.steps, resolved.fps) == (profile.num_frames, profile.steps, profile.fps)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.label)
def test_arguments_are_those_the_profile_names(profile: Profile) -> None:
    """`argument_names`, which is compared with diffusers, lists exactly what is passed."""
    asked = Asked("a bird") if profile.takes_prompt else Asked()
    resolved = resolve(asked, profile, Model(profile.pipeline_class, "/w"))
    added = {"image", "generator", "output_type"}
    added |= {"callback_on_step_end", "callback_on_step_end_tensor_inputs"} if profile.takes_callback else set()
    assert arguments(resolved, profile).keys() | added == profile.argument_names()


def test_skyreels_is_guided_for_real() -> None:
    """Its guidance needs a negative prompt, be it empty, and goes into `true_cfg_scale`, not `guidance_scale`."""
    profile = profile_of("HunyuanSkyreelsImageToVideoPipeline")
    resolved = resolve(Asked("a bird", guidance=4.0), profile, Model(profile.pipeline_class, "/w"))
    passed = arguments(resolved, profile)
    assert (passed["true_cfg_scale"], passed["guidance_scale"], passed["negative_prompt"]) == (4.0, 1.0, "")


def test_a_new_class_takes_a_few_lines() -> None:
    """What the error for an unknown class says works: afterwards the class is known."""
    name = "HandmadeImageToVideoPipeline"
    with pytest.raises(UsageError, match=r"profiles\.register\(profiles\.Profile\("):
        profile_of(name)
    handmade = Profile(name, "Handmade", num_frames=49, height=480, width=720, steps=50, fps=16, frames_max=81)
    register(handmade)
    register(handmade)  # a module that is imported twice
    assert profile_of(name) is handmade
    with pytest.raises(UsageError, match="another profile"):
        register(dataclasses.replace(handmade, steps=8))


def test_adjustable_names_are_fields() -> None:
    """A model's defaults can only be about what a profile has."""
    assert set(ADJUSTABLE) <= {field.name for field in dataclasses.fields(Profile)}
