"""What each pipeline class of diffusers takes, and which values it can work with.

The pipelines check little of it: a number of frames that does not fit is rounded with a warning, or with none. The
figures were read from the sources of diffusers 0.42, and tests/media hold it against the installed ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from poorwill.errors import UsageError

Argument = int | float | str | bool


@dataclass(frozen=True, slots=True)
class Profile:
    """One pipeline class. What a model does not say is taken from here.

    The frames of a video are `frame_step` * k + `frame_offset`, height and width multiples of `size_multiple`.
    `guidance_argument` and `frame_rate_argument` are the names of arguments, "" without one. `fixed` are
    further arguments, always passed. `component_dtypes` are those that components need in place of a model's shorter
    one, for the picture's sake. `packages` are Python packages that the class needs and diffusers does not install.
    """

    pipeline_class: str
    label: str
    num_frames: int
    height: int
    width: int
    steps: int
    fps: int
    guidance: float = 0.0
    frame_step: int = 4
    frame_offset: int = 1
    frames_max: int = 1
    size_multiple: int = 16
    pixels_max: int = 1280 * 720
    steps_max: int = 100
    guidance_argument: str = "guidance_scale"
    frame_rate_argument: str = ""
    takes_prompt: bool = True
    takes_negative_prompt: bool = True
    takes_size: bool = True
    takes_callback: bool = True
    noise_on_device: bool = False
    """Whether it may draw noise with `torch.randn` on its device, which refuses a generator of another one."""
    fixed: tuple[tuple[str, Argument], ...] = ()
    component_dtypes: tuple[tuple[str, str], ...] = ()
    packages: tuple[str, ...] = ()

    def argument_names(self) -> frozenset[str]:
        """Every argument that the pipeline is called with."""
        names = {"image", "num_frames", "num_inference_steps", "generator", "output_type", *dict(self.fixed)}
        names |= {"prompt"} if self.takes_prompt else set()
        names |= {"negative_prompt"} if self.takes_negative_prompt else set()
        names |= {"height", "width"} if self.takes_size else set()
        names |= {"callback_on_step_end", "callback_on_step_end_tensor_inputs"} if self.takes_callback else set()
        return frozenset(names | {self.guidance_argument, self.frame_rate_argument} - {""})


ADJUSTABLE = (
    "num_frames", "height", "width", "steps", "guidance", "fps",
    "frames_max", "pixels_max", "steps_max", "size_multiple",
)  # fmt: skip
"""What a model may say otherwise than its profile, in `Model.defaults`."""
PROFILES: dict[str, Profile] = {}


def register(profile: Profile) -> None:
    """Make a pipeline class known to this process. UsageError if another profile has its name."""
    if PROFILES.setdefault(profile.pipeline_class, profile) != profile:
        raise UsageError(f"another profile is registered for {profile.pipeline_class}: give the class another name")


def profile_of(pipeline_class: str) -> Profile:
    """The profile of a pipeline class, by its name in diffusers. UsageError that says how to add one."""
    if pipeline_class not in PROFILES:
        raise UsageError(
            f"no profile of the pipeline class {pipeline_class[:80]!r}: known are {', '.join(PROFILES)}. To add one: "
            "from poorwill.media import profiles; profiles.register(profiles.Profile('NameInDiffusers', 'Label', "
            "num_frames=49, height=480, width=720, steps=50, fps=16, guidance=6.0, frame_step=4, frame_offset=1, "
            "frames_max=81, size_multiple=16)) before the model is used; every argument is explained in profiles.py"
        )
    return PROFILES[pipeline_class]


for _profile in (
    Profile(
        "HunyuanSkyreelsImageToVideoPipeline", "SkyReels",
        num_frames=97, height=544, width=960, steps=50, fps=24, guidance=6.0, frames_max=193,
        # Its authors begin every prompt with "FPS-24, ", which is left to whoever asks.
        # True guidance is a second pass; `guidance_scale` is an input of HunyuanVideo, and 1 for this model.
        guidance_argument="true_cfg_scale", fixed=(("guidance_scale", 1.0),),
        component_dtypes=(("vae", "float16"),),
    ),
    Profile(
        "LTXImageToVideoPipeline", "LTX",
        num_frames=161, height=512, width=704, steps=50, fps=25, guidance=3.0,
        frame_step=8, frames_max=257, size_multiple=32, frame_rate_argument="frame_rate", noise_on_device=True,
        # As its page recommends for the versions whose decoder denoises; the others ignore them.
        fixed=(("decode_timestep", 0.05), ("decode_noise_scale", 0.025)),
    ),
    Profile(
        "LTX2ImageToVideoPipeline", "LTX-2",
        num_frames=121, height=512, width=768, steps=30, fps=24, guidance=3.0,
        frame_step=8, frames_max=481, size_multiple=32, pixels_max=1920 * 1088, frame_rate_argument="frame_rate",
    ),
    # The 5B model of Wan 2.2 compresses more: its record needs size_multiple=32 (and 704x1280, 121 frames, 24 fps).
    Profile(
        "WanImageToVideoPipeline", "Wan",
        num_frames=81, height=480, width=832, steps=50, fps=16, guidance=5.0, frames_max=161,
        component_dtypes=(("vae", "float32"), ("image_encoder", "float32")), packages=("ftfy",),
    ),
    # It chooses height and width itself, by the image's shape, and its guidance is a component of the model.
    Profile(
        "HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo-1.5",
        num_frames=121, height=480, width=848, steps=50, fps=24, frames_max=241,
        guidance_argument="", takes_size=False, takes_callback=False,
    ),
    # Its decoder works on pairs of latent frames: 4k+1 alone would give fewer frames than asked for.
    Profile(
        "CogVideoXImageToVideoPipeline", "CogVideoX",
        num_frames=49, height=480, width=720, steps=50, fps=8, guidance=6.0,
        frame_step=8, frames_max=161, pixels_max=1360 * 768,
    ),
    Profile(
        "StableVideoDiffusionPipeline", "SVD",
        num_frames=25, height=576, width=1024, steps=25, fps=7, guidance=3.0,
        frame_step=1, frame_offset=0, frames_max=50, size_multiple=8, pixels_max=1024 * 1024,
        guidance_argument="max_guidance_scale", frame_rate_argument="fps",
        takes_prompt=False, takes_negative_prompt=False,
        # All frames at once, its default, take more memory than everything before.
        fixed=(("decode_chunk_size", 8),),
    ),
):  # fmt: skip
    register(_profile)
