"""The parameters of a video: those asked for, and those it is then made with. None is changed silently."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from poorwill.errors import UsageError
from poorwill.media.model import Model, Number
from poorwill.media.profiles import ADJUSTABLE, Profile

SEED_MAX = 2**53 - 1
"""The largest whole number that every JSON reader keeps."""
PROMPT_CHARACTERS_MAX = 4000
GUIDANCE_MAX = 30.0
FPS_MAX = 120


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asks for. None: the model's default; for `seed`, one that is drawn.

    Sizes in pixels, `fps` in frames a second. `guidance` is how closely to follow the prompt.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance: float | None = None
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a video is made with, all of it: these values again give the same video.

    `height`, `width` and `guidance` are None for pipelines that choose them by themselves, prompts are "" for those
    that read none.
    """

    prompt: str
    negative_prompt: str
    seed: int
    num_frames: int
    height: int | None
    width: int | None
    steps: int
    guidance: float | None
    fps: float


@dataclass(frozen=True, slots=True)
class Problem:
    """One value that is not possible: `rule` says what is, `nearest` are up to two values that are."""

    field: str
    value: Any
    rule: str
    nearest: tuple[Any, ...] = ()

    def __str__(self) -> str:
        nearest = f": {' or '.join(map(str, self.nearest))}" if self.nearest else ""
        return f"{self.field}={self.value!r}: {self.rule}{nearest}"


@dataclass(frozen=True, slots=True)
class _Grid:
    """The whole numbers step * k + offset from `least` to `most`."""

    least: int
    most: int
    step: int = 1
    offset: int = 0

    def __contains__(self, value: int) -> bool:
        return self.least <= value <= self.most and (value - self.offset) % self.step == 0

    def nearest(self, value: int) -> tuple[int, ...]:
        """The largest one that is not above `value` and the smallest that is not below it, as far as they exist."""
        first = self.offset + -(-(self.least - self.offset) // self.step) * self.step
        last = self.offset + (self.most - self.offset) // self.step * self.step
        if last < first:
            return ()
        below = self.offset + (value - self.offset) // self.step * self.step
        return tuple(sorted({min(max(one, first), last) for one in (below, below + self.step)}))


def resolve(asked: Asked, profile: Profile, model: Model) -> Resolved:
    """Every value that the video will be made with. `seed` is drawn if there is none.

    UsageError that lists every value that the pipeline cannot work with, in its message and, as `problems`, in its
    facts: field, value, rule and nearest.
    """
    rules = {name: getattr(profile, name) for name in ADJUSTABLE} | dict(model.defaults)
    values = {name: rules[name] if (given := getattr(asked, name)) is None else given for name in _NUMBERS}
    problems = [*_not_taken(asked, profile), *_prompt_problems(asked, profile)]
    problems.extend(_number_problems(values, rules, profile))
    seed = secrets.randbelow(SEED_MAX + 1) if asked.seed is None else asked.seed
    problems.extend(_whole("seed", seed, _Grid(0, SEED_MAX), f"must be from 0 to {SEED_MAX}"))
    if problems:
        raise UsageError(
            f"{profile.label} cannot make this video: {'; '.join(map(str, problems))}",
            problems=[asdict(problem) for problem in problems],
        )
    return Resolved(
        prompt=asked.prompt or "",
        negative_prompt=asked.negative_prompt or "",
        seed=seed,
        num_frames=values["num_frames"],
        height=values["height"] if profile.takes_size else None,
        width=values["width"] if profile.takes_size else None,
        steps=values["steps"],
        guidance=values["guidance"] if profile.guidance_argument else None,
        fps=values["fps"],
    )


def arguments(resolved: Resolved, profile: Profile) -> dict[str, Any]:
    """What the pipeline is called with for these values: all but the image, the generator and the callback.

    A negative prompt is always passed, be it empty: without one SkyReels leaves its guidance out.
    """
    passed: dict[str, Any] = {
        "num_frames": resolved.num_frames,
        "num_inference_steps": resolved.steps,
        profile.guidance_argument: resolved.guidance,
        profile.frame_rate_argument: resolved.fps,
        **dict(profile.fixed),
    }
    passed |= {"prompt": resolved.prompt} if profile.takes_prompt else {}
    passed |= {"negative_prompt": resolved.negative_prompt} if profile.takes_negative_prompt else {}
    passed |= {"height": resolved.height, "width": resolved.width} if profile.takes_size else {}
    return {name: value for name, value in passed.items() if name}


_NUMBERS = ("num_frames", "height", "width", "steps", "guidance", "fps")


def _not_taken(asked: Asked, profile: Profile) -> Iterator[Problem]:
    taken = {
        "prompt": profile.takes_prompt,
        "negative_prompt": profile.takes_negative_prompt,
        "height": profile.takes_size,
        "width": profile.takes_size,
        "guidance": bool(profile.guidance_argument),
    }
    for name, takes in taken.items():
        value = getattr(asked, name)
        if value is not None and not takes:
            yield Problem(name, _shown(value), f"{profile.label} does not take one: leave it out")


def _prompt_problems(asked: Asked, profile: Profile) -> Iterator[Problem]:
    if profile.takes_prompt and asked.prompt is None:
        yield Problem("prompt", None, f"{profile.label} needs one")
    for name in ("prompt", "negative_prompt"):
        text = getattr(asked, name)
        if text is None:
            continue
        if not isinstance(text, str):
            yield Problem(name, _shown(text), "must be a text")
        elif len(text) > PROMPT_CHARACTERS_MAX:
            yield Problem(name, _shown(text), f"has {len(text)} characters, at most {PROMPT_CHARACTERS_MAX}")
        elif any("\ud800" <= character <= "\udfff" for character in text):
            yield Problem(name, _shown(text), "must be valid Unicode")


def _number_problems(values: Mapping[str, Any], rules: Mapping[str, Number], profile: Profile) -> Iterator[Problem]:
    step, offset, frames_max = profile.frame_step, profile.frame_offset, int(rules["frames_max"])
    text = f"must be {step}k+{offset}" if step > 1 else "must be a whole number"
    frames = _Grid(max(offset, 1), frames_max, step, offset)
    yield from _whole("num_frames", values["num_frames"], frames, f"{text} for {profile.label}, at most {frames_max}")
    if profile.takes_size:
        yield from _size_problems(values["height"], values["width"], rules, profile)
    steps_max = int(rules["steps_max"])
    yield from _whole("steps", values["steps"], _Grid(1, steps_max), f"must be from 1 to {steps_max}")
    if profile.guidance_argument:
        yield from _real("guidance", values["guidance"], 0.0, GUIDANCE_MAX)
    yield from _real("fps", values["fps"], 1, FPS_MAX)


def _size_problems(height: Any, width: Any, rules: Mapping[str, Number], profile: Profile) -> Iterator[Problem]:
    multiple, pixels_max = int(rules["size_multiple"]), int(rules["pixels_max"])
    grid = _Grid(multiple, pixels_max // multiple, multiple)
    text = f"must be a multiple of {multiple} for {profile.label}"
    found = [*_whole("height", height, grid, text), *_whole("width", width, grid, text)]
    yield from found
    if not found and height * width > pixels_max:
        width_max, height_max = (pixels_max // side // multiple * multiple for side in (height, width))
        fitting = tuple(dict.fromkeys(f"{h}x{w}" for h, w in ((height, width_max), (height_max, width))))
        yield Problem("height x width", f"{height}x{width}", f"must be at most {pixels_max} pixels", fitting)


def _whole(field: str, value: Any, grid: _Grid, rule: str) -> Iterator[Problem]:
    if isinstance(value, bool) or not isinstance(value, int):
        yield Problem(field, _shown(value), "must be a whole number")
    elif value not in grid:
        yield Problem(field, _shown(value), rule, grid.nearest(value))


def _real(field: str, value: Any, least: float, most: float) -> Iterator[Problem]:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        yield Problem(field, _shown(value), "must be a number")
    elif not least <= value <= most:
        yield Problem(field, _shown(value), f"must be from {least:g} to {most:g}", (min(max(value, least), most),))


def _shown(value: Any) -> Any:
    """A value as a message and JSON can hold it."""
    if value is None or isinstance(value, bool) or (isinstance(value, (int, float)) and abs(value) < 2**63):
        return value
    if isinstance(value, int):
        return f"a number of {value.bit_length()} bits"
    text = value if isinstance(value, str) else repr(value)
    return ascii(text[:40])[1:-1] + ("..." if len(text) > 40 else "")
