"""Three tiny pipelines, built and loaded once: importing torch and diffusers takes most of these tests' time."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from poorwill.media.model import Memory, Model

if TYPE_CHECKING:
    from poorwill.media.loading import LoadedPipeline

if importlib.util.find_spec("torch") is None:  # Python 3.10, which the pinned set of packages does not support
    collect_ignore_glob = ["test_*.py"]

CLASSES = {
    "skyreels": "HunyuanSkyreelsImageToVideoPipeline",
    "ltx": "LTXImageToVideoPipeline",
    "wan": "WanImageToVideoPipeline",
}


@pytest.fixture(scope="session", autouse=True)
def calm() -> None:
    """One thread: tiny convolutions gain nothing from more, and lose much when others want the same core. And what
    the libraries made when they were imported is not looked through whenever memory is released."""
    import diffusers
    import torch

    torch.set_num_threads(1)
    assert all(hasattr(diffusers, name) for name in CLASSES.values())  # they are imported when they are looked at
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny pipeline by its name; not to be changed."""
    from deployments.demo import tiny_models

    root, made = tmp_path_factory.mktemp("tiny"), dict[str, Path]()

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tiny_models.make(name, root / name)
        return made[name]

    return folder


@pytest.fixture(scope="session")
def loaded(tiny: Callable[[str], Path]) -> Callable[[str], LoadedPipeline]:
    """A tiny pipeline by its name, loaded once by the ordinary code."""
    from poorwill.media.loading import load

    kept: dict[str, LoadedPipeline] = {}

    def pipeline(name: str) -> LoadedPipeline:
        if name not in kept:
            model = Model(CLASSES[name], str(tiny(name)), dtype="float32", memory=Memory(offload="none"))
            kept[name] = load(model, Path)
        return kept[name]

    return pipeline
