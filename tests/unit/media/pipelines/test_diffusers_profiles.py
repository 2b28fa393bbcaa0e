"""What the project assumes of diffusers, compared with the installed version."""

from __future__ import annotations

import inspect

import diffusers
import pytest
from diffusers.models.attention_dispatch import AttentionBackendName

from poorwill.media import profiles
from poorwill.media.model import ATTENTIONS
from poorwill.media.profiles import Profile

PROFILES = tuple(profiles.PROFILES.values())


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.label)
def test_every_class_exists_and_takes_what_is_passed(profile: Profile) -> None:
    """An argument that was renamed would otherwise be noticed by the first user."""
    signature = inspect.signature(getattr(diffusers, profile.pipeline_class).__call__)
    assert profile.argument_names() <= signature.parameters.keys()


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.label)
def test_the_class_lacks_what_its_profile_denies(profile: Profile) -> None:
    """Nothing that a class takes is kept from its users."""
    parameters = inspect.signature(getattr(diffusers, profile.pipeline_class).__call__).parameters
    assert profile.takes_prompt == ("prompt" in parameters)
    assert profile.takes_negative_prompt == ("negative_prompt" in parameters)
    assert profile.takes_size == ("height" in parameters and "width" in parameters)
    assert profile.takes_callback == ("callback_on_step_end" in parameters)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.label)
def test_component_dtypes_are_about_components(profile: Profile) -> None:
    """A misspelt one would do nothing."""
    components = inspect.signature(getattr(diffusers, profile.pipeline_class).__init__).parameters
    assert dict(profile.component_dtypes).keys() <= components.keys()


def test_attention_backends_are_those_of_diffusers() -> None:
    """All of CUDA's and the CPU's, and none that fetches a kernel from the hub and runs it."""
    known = {backend.value for backend in AttentionBackendName}
    assert set(ATTENTIONS) <= known
    others = known - set(ATTENTIONS)
    assert {name for name in others if not name.endswith("_hub")} == {"_native_npu", "_native_xla"}
