"""What every codec must pass: one test for each promise of poorwill/codecs/base.py.

A test class derives from CodecSuite and says how to make its codec.
"""

from __future__ import annotations

import functools
import random
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.chunks import KINDS
from bench.chunks import chunk as new_chunk
from poorwill.codecs.base import Codec
from poorwill.errors import Corrupt

GUARD = bytes(range(0xA0, 0xC0))
SIZES = (1, 2, 3, 5, 8, 255, 4096, 4097, 70_001, 270_003)
SPARE = 4096
MUTATIONS = 100
ALLOCATED_MAX = 4 << 20
chunk = functools.lru_cache(maxsize=64)(new_chunk)

contents = st.one_of(
    st.binary(min_size=1, max_size=300),
    st.builds(
        lambda kind, size, seed, cut: bytes(chunk(kind, size * 8, seed)[cut:]),
        st.sampled_from(sorted(set(KINDS) - {"text"})),
        st.integers(1, 2000),
        st.integers(0, 3),
        st.integers(0, 7),
    ),
    st.builds(lambda unit, times: unit * times, st.binary(min_size=1, max_size=9), st.integers(1, 3000)),
)


def encoded(codec: Codec, raw: bytes, room: int | None = None) -> bytes | None:
    """The coded form; checks that nothing behind `room` bytes was written, and that `raw` stayed as it was."""
    room = len(raw) + SPARE if room is None else room
    buffer, source = bytearray(bytes(room) + GUARD), bytearray(raw)
    size = codec.encode(memoryview(source), memoryview(buffer)[:room])
    assert buffer[room:] == GUARD
    assert source == raw
    assert size is None or 0 < size <= room
    return None if size is None else bytes(buffer[:size])


def decoded(codec: Codec, stored: bytes, size: int) -> bytes:
    """The decoded form; checks that nothing around it was written."""
    buffer = bytearray(GUARD + b"\xee" * size + GUARD)
    # Bytes of a true continuation behind `stored`: a decoder that reads on would go unnoticed without.
    source = memoryview(stored + GUARD)[: len(stored)]
    try:
        codec.decode(source, memoryview(buffer)[len(GUARD) : len(GUARD) + size])
    finally:
        assert buffer[: len(GUARD)] == buffer[-len(GUARD) :] == GUARD
    return bytes(buffer[len(GUARD) : -len(GUARD)])


def mutants(stored: bytes, seed: int) -> Iterator[bytes]:
    """Damaged forms: cut, grown, with other bytes (half of them among the first 64), and pure noise."""
    rng = random.Random(seed)
    for number in range(MUTATIONS):
        data = bytearray(stored)
        for _ in range(rng.choice((1, 1, 2, 9))):
            data[rng.randrange(len(data) if number % 2 else min(64, len(data)))] = rng.randrange(256)
        yield bytes(data)
        yield stored[: rng.randrange(len(stored))]
        yield rng.randbytes(rng.randrange(200))
    yield stored + b"\0"
    yield stored + stored
    yield b""


class CodecSuite:
    """One instance a test, as one thread has it."""

    gains_on = "bf16"

    def make(self) -> Codec:
        """A new codec."""
        raise AssertionError("the class that derives says how")

    @pytest.fixture
    def codec(self) -> Codec:
        return self.make()

    def coded_sample(self, codec: Codec, size: int = 40_000) -> tuple[bytes, bytes]:
        """Raw bytes that this codec codes, and their coded form."""
        raw = bytes(chunk(self.gains_on, size)) + b"tai"
        stored = encoded(codec, raw)
        assert stored is not None
        return raw, stored

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(raw=contents)
    def test_round_trip(self, raw: bytes) -> None:
        """Whatever is coded decodes to the same bytes."""
        codec = self.make()
        stored = encoded(codec, raw)
        if stored is not None:
            assert decoded(codec, stored, len(raw)) == raw

    @pytest.mark.parametrize("kind", [*KINDS])
    def test_round_trip_of_every_kind_and_size(self, codec: Codec, kind: str) -> None:
        """One codec codes one chunk after the other, of all lengths, also those that end within an element."""
        everything = chunk(kind, 270_008)
        for size in SIZES:
            raw = bytes(everything[:size])
            stored = encoded(codec, raw)
            if stored is not None:
                assert decoded(codec, stored, size) == raw, size

    def test_no_room(self, codec: Codec) -> None:
        """Too small a buffer gives None and stays within it; the exact size suffices or gives None."""
        raw, stored = self.coded_sample(codec)
        for room in (0, 1, 7, 19, len(stored) // 2, len(stored) - 1):
            assert encoded(codec, raw, room) is None, room
        assert encoded(codec, raw, len(stored)) in (stored, None)
        assert encoded(codec, raw) == stored

    def test_deterministic(self, codec: Codec) -> None:
        """The same bytes again, with other chunks between them and from another codec of its kind."""
        raw, stored = self.coded_sample(codec)
        encoded(codec, bytes(chunk("int8", 9000)))
        assert encoded(codec, raw) == stored
        assert encoded(self.make(), raw) == stored

    def test_two_threads(self) -> None:
        """Two threads, each with its own codec, write what one writes."""
        raws = [bytes(chunk(self.gains_on, 300_000, seed)) for seed in range(6)]
        alone = [encoded(self.make(), raw) for raw in raws]

        def work(_: int) -> list[bytes | None]:
            codec = self.make()
            return [encoded(codec, raw) for raw in raws]

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(work, range(2))) == [alone, alone]

    def test_another_length(self, codec: Codec) -> None:
        """Whole and sound stored bytes are corrupt when the manifest names another size, whichever."""
        raw, stored = self.coded_sample(codec)
        for size in (0, 1, len(raw) - 1, len(raw) + 1, len(raw) * 2):
            with pytest.raises(Corrupt):
                decoded(codec, stored, size)
        assert decoded(codec, stored, len(raw)) == raw

    @pytest.mark.parametrize("size", [2000, 40_000])
    def test_damaged(self, codec: Codec, size: int) -> None:
        """Damaged bytes raise Corrupt or fill the buffer, allocate little, and leave the codec as good as before."""
        raw, stored = self.coded_sample(codec, size)
        refused = 0
        tracemalloc.start()
        try:
            for mutant in mutants(stored, size):
                try:
                    decoded(codec, mutant, len(raw))
                except Corrupt:
                    refused += 1
            assert tracemalloc.get_traced_memory()[1] < ALLOCATED_MAX
        finally:
            tracemalloc.stop()
        assert refused > MUTATIONS
        assert decoded(codec, stored, len(raw)) == raw

    def test_errors_are_one_line(self, codec: Codec) -> None:
        """What is said of a damage names the codec and is one line."""
        _, stored = self.coded_sample(codec)
        with pytest.raises(Corrupt) as caught:
            decoded(codec, stored[: len(stored) // 2], 40_003)
        assert "\n" not in caught.value.message
        assert caught.value.message.startswith((f"{codec.name}: ", "zstd: "))
