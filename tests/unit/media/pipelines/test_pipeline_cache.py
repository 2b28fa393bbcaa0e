"""One pipeline stays; another one takes its place only when it is really gone."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from poorwill.media.loading import LoadedPipeline, load
from poorwill.media.model import Model
from poorwill.media.pipeline_cache import PipelineCache
from tests.unit.media.pipelines.conftest import CLASSES

Tiny = Callable[[str], Path]


def record(tiny: Tiny, name: str) -> Model:
    return Model(CLASSES[name], str(tiny(name)), dtype="float32")


def load_it(model: Model) -> LoadedPipeline:
    return load(model, Path)


def must_not_load(model: Model) -> LoadedPipeline:
    raise AssertionError("it is loaded already")


def test_equal_records_share_a_pipeline(tiny: Tiny) -> None:
    """The same object, for a record that is equal and not the same."""
    cache = PipelineCache()
    first = cache.get(record(tiny, "ltx"), load_it)
    assert cache.get(record(tiny, "ltx"), must_not_load) is first
    assert cache.model == record(tiny, "ltx")


def test_the_other_one_is_gone_before_the_next_is_loaded(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    """Pipeline and weights: two do not fit into a GPU."""
    cache = PipelineCache()
    first = cache.get(record(tiny, "ltx"), load_it)
    left = [weakref.ref(one) for one in (first.pipe, first.pipe.transformer, next(first.pipe.vae.parameters()))]
    del first
    seen: list[object] = []

    def second(model: Model) -> LoadedPipeline:
        seen.extend(ref() for ref in left)
        return load_it(model)

    cache.get(record(tiny, "wan"), second)
    assert seen == [None, None, None] and not caplog.records


def test_a_pipeline_that_is_still_referred_to_is_logged(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    """Its memory cannot be given back, which would look like a leak."""
    cache = PipelineCache()
    kept = cache.get(record(tiny, "ltx"), load_it)
    with caplog.at_level(logging.WARNING, logger="poorwill.media.pipeline_cache"):
        cache.clear()
    assert kept and "still referred to" in caplog.text
    cache.clear()


def test_nothing_is_loaded_after_an_error(tiny: Tiny) -> None:
    """The error passes, and the next call loads."""
    cache = PipelineCache()
    cache.get(record(tiny, "ltx"), load_it)

    def fail(model: Model) -> LoadedPipeline:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        cache.get(record(tiny, "wan"), fail)
    assert cache.model is None
    assert cache.get(record(tiny, "wan"), load_it).profile.label == "Wan"


def test_threads_load_it_once(tiny: Tiny) -> None:
    """The others wait for the one that loads."""
    cache, loads, together = PipelineCache(), list[Model](), threading.Barrier(4)

    def ask(number: int) -> LoadedPipeline:
        together.wait(30)
        return cache.get(record(tiny, "ltx"), lambda model: (loads.append(model), load_it(model))[1])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(loads) == 1 and all(one is found[0] for one in found)
