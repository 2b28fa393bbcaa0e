"""A GPU whose memory others take, and several GPUs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from bench.chunks import chunk
from poorwill.codecs.chooser import Chooser
from poorwill.codecs.gpu.gpu import Gpu
from poorwill.codecs.gpu.gpu_pool import Gpus
from poorwill.codecs.gpu.libraries import usable_devices
from poorwill.codecs.gpu.nvcomp import NvcompAns
from poorwill.codecs.planes import Planes
from tests.gpu.device import libraries, needed

needed()

LEFT_BYTES = 4 << 20
WEIGHTS = chunk("bf16", 8 << 20)


@contextmanager
def little_memory() -> Iterator[None]:
    """All but a few MiB of the device's memory is taken within the block."""
    cupy = libraries().cupy
    cupy.cuda.Device(0).use()
    taken: list[Any] = []
    size = 8 << 30
    try:
        while size >= LEFT_BYTES:
            try:
                taken.append(cupy.empty(size, cupy.uint8))
            except cupy.cuda.memory.OutOfMemoryError:
                size //= 2
        yield
    finally:
        taken.clear()
        cupy.get_default_memory_pool().free_all_blocks()


def room() -> memoryview:
    return memoryview(bytearray(len(WEIGHTS)))


def there_and_back(gpus: Gpus) -> bool:
    """Whether the GPU coded a chunk; it is compared."""
    codec, out, back = NvcompAns(gpus), room(), room()
    size = codec.encode(WEIGHTS, out)
    if size is None:
        return False
    codec.decode(out[:size], back)
    return back == WEIGHTS


def test_no_free_memory_at_the_opening(caplog: pytest.LogCaptureFixture) -> None:
    """It is not used, with one warning; the chunk is coded by the CPU."""
    with little_memory(), caplog.at_level(logging.WARNING):
        gpus = Gpus(libraries(), [Gpu(libraries(), 0)])
        chooser, out = Chooser("ans", NvcompAns(gpus)), room()
        for _ in range(3):
            number, size = chooser.encode(WEIGHTS, out)
            assert number == Planes.id
        back = room()
        Planes().decode(out[:size], back)
        assert back == WEIGHTS
        gpus.close()
    assert len([record for record in caplog.records if "what it does not" in record.getMessage()]) == 1


def test_no_free_memory_later() -> None:
    """Chunks that do not fit are coded otherwise, nothing fails, and the GPU codes again when there is room."""
    gpus = Gpus(libraries(), [Gpu(libraries(), 0, lanes=1, batch_bytes=128 << 20)])
    try:
        assert there_and_back(gpus)
        with little_memory():
            # More at once than the rooms of one chunk hold: they would have to grow.
            with ThreadPoolExecutor(6) as threads:
                coded = list(threads.map(lambda _: NvcompAns(gpus).encode(WEIGHTS, room()), range(6)))
            assert all(size is None or size < len(WEIGHTS) for size in coded)
        assert gpus.usable
        assert there_and_back(gpus)
    finally:
        gpus.close()


def test_several_gpus() -> None:
    """Each codes, and each reads what another one wrote."""
    numbers = usable_devices(libraries())
    if len(numbers) < 2:
        pytest.skip("this machine has one GPU")
    each = [Gpus(libraries(), [Gpu(libraries(), number)]) for number in numbers]
    coded = []
    for gpus in each:
        out = room()
        size = NvcompAns(gpus).encode(WEIGHTS, out)
        assert size is not None
        coded.append(bytes(out[:size]))
    assert len(set(coded)) == 1
    for gpus in each:
        back = room()
        NvcompAns(gpus).decode(memoryview(coded[0]), back)
        assert back == WEIGHTS
        gpus.close()


def test_a_lost_gpu_does_not_stop_the_other() -> None:
    """With one of two closed, the other one codes on."""
    numbers = usable_devices(libraries())
    if len(numbers) < 2:
        pytest.skip("this machine has one GPU")
    pair = [Gpu(libraries(), number) for number in numbers[:2]]
    gpus = Gpus(libraries(), pair)
    assert there_and_back(gpus)
    pair[0].close()
    assert there_and_back(gpus) and gpus.usable
    gpus.close()
