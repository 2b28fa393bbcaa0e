"""A loop that calls a pipeline of diffusers, and nothing else.

    python -m bench.generation.bare_loop FOLDER PICTURE ARGUMENTS

What a person without Poorwill would write: the pipeline of FOLDER, loaded as the flow loads it, is called once for each
line on stdin with ARGUMENTS (JSON: the pipeline's own, beside `seed`). Each answer is a line with the seconds from
opening the picture to frames of uint8, which is what the flow calls `infer`. The first, "ready", comes after a call
that does not count. Nothing of Poorwill is imported.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps


def load(folder: str) -> Any:
    """On the GPU in bfloat16 (its decoder in float16), or on the CPU in float32; decoding in tiles."""
    on_gpu = torch.cuda.is_available()
    dtype: Any = {"default": torch.bfloat16, "vae": torch.float16} if on_gpu else torch.float32
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    pipe.vae.enable_tiling()
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if on_gpu else "cpu")


def video(pipe: Any, picture: str, arguments: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """(frames, height, width, 3)."""
    passed = dict(arguments)
    generator = torch.Generator("cpu").manual_seed(passed.pop("seed"))
    with Image.open(picture) as opened:
        size = (passed["width"], passed["height"])
        image = ImageOps.fit(opened.convert("RGB"), size, Image.Resampling.LANCZOS)
    frames = pipe(image=image, generator=generator, output_type="pt", **passed).frames[0]
    pixels = [frame.float().mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0) for frame in frames]
    return np.stack([frame.cpu().numpy() for frame in pixels])


def main(folder: str, picture: str, arguments: dict[str, Any]) -> None:
    """Until the end of stdin."""
    pipe = load(folder)
    video(pipe, picture, arguments)
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        video(pipe, picture, arguments)
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
