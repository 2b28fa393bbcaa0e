"""The block of one video model: which pipeline, where its weights are, and how they fit into memory."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from blocks.schema import SteadySchema
from blocks.stores import LocalStore, S3Store
from poorwill.errors import UsageError
from poorwill.media.model import Memory, Model
from poorwill.media.profiles import ADJUSTABLE, Profile, profile_of
from poorwill.store.base import Store


class VideoModel(SteadySchema):
    """An image-to-video pipeline of diffusers. The name of the block is what `generate` is given as `model`."""

    _block_type_name = "Poorwill video model"
    _block_type_slug = "poorwill-video-model"

    pipeline: str = Field(
        description="Its class in diffusers, for example HunyuanSkyreelsImageToVideoPipeline, "
        "LTXImageToVideoPipeline or WanImageToVideoPipeline."
    )
    source: str = Field(
        description="Where its weights are: 'organisation/name' on the Hugging Face hub, '/a/folder' of the worker's "
        "host, or 'store:prefix' in the store below."
    )
    revision: str = Field(default="", description="The commit of a hub's repository, 40 hexadecimal digits.")
    transformer: str = Field(
        default="",
        description="Where the transformer is, if somewhere else, like Skywork/SkyReels-V1-Hunyuan-I2V: said as above.",
    )
    transformer_revision: str = Field(default="", description="The commit of that repository.")
    store: S3Store | LocalStore | None = Field(
        default=None, union_mode="left_to_right", description="The store that 'store:prefix' means."
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(default="bfloat16", description="Of the weights.")
    offload: Literal["auto", "none", "model", "group", "sequential"] = Field(
        default="auto", description="What waits in the host's memory while it is not needed. auto: by the GPU's memory."
    )
    vae_tiling: bool = Field(default=True, description="Decode the video in tiles, which needs much less memory.")
    quantization: Literal["auto", "none", "fp8", "int8", "4bit"] = Field(
        default="auto", description="Of the weights while they are on the GPU. auto: by the GPU's memory."
    )
    attention: str = Field(default="", description="An attention backend of diffusers. Empty: its default.")
    compile: bool = Field(default=False, description="Compile the transformer; the first video then takes minutes.")
    num_frames: int | None = Field(default=None, ge=1, description="Of this model's videos, where a run says nothing.")
    height: int | None = Field(default=None, ge=1, description="The same, in pixels.")
    width: int | None = Field(default=None, ge=1, description="The same, in pixels.")
    steps: int | None = Field(default=None, ge=1, description="The same.")
    guidance: float | None = Field(default=None, ge=0, description="The same.")
    fps: float | None = Field(default=None, gt=0, description="The same, in frames per second.")
    size_multiple: int | None = Field(default=None, ge=1, description="Of height and width, if not the pipeline's own.")
    frames_max: int | None = Field(default=None, ge=1, description="The most a run may ask for.")
    pixels_max: int | None = Field(default=None, ge=1, description="The most a frame may have.")
    steps_max: int | None = Field(default=None, ge=1, description="The most a run may ask for.")

    def record(self) -> Model:
        """What is loaded; equal for two blocks that mean the same. UsageError."""
        defaults: dict[str, Any] = {
            name: value for name in ADJUSTABLE if (value := getattr(self, name, None)) is not None
        }
        model = Model(
            pipeline_class=self.pipeline,
            source=self.source,
            revision=self.revision,
            transformer=self.transformer,
            transformer_revision=self.transformer_revision,
            dtype=self.dtype,
            memory=Memory(self.offload, self.vae_tiling, self.quantization, self.attention, self.compile),
            defaults=defaults,
        )
        model.check()
        if "store:" in (self.source[:6], self.transformer[:6]) and self.store is None:
            raise UsageError(f"the weights of {self.source} are in a store, and the model's block names none")
        return model

    def profile(self) -> Profile:
        """The rules of its pipeline. UsageError for an unknown pipeline."""
        return profile_of(self.pipeline)

    def open_store(self) -> Store:
        """The store of its weights. UsageError if there is none."""
        if self.store is None:
            raise UsageError(f"the block of model {self.source} names no store")
        return self.store.open()
