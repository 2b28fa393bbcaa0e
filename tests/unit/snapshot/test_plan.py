"""The plan of chunks and parts: every byte once, within bounds, and the same again tomorrow."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from poorwill.snapshot import limits
from poorwill.snapshot.plan import Plan, parts_for, plan_chunks, split_parts

KIB = 1 << 10
CHUNK = limits.CHUNK_BYTES
SIZES = st.lists(
    st.one_of(st.integers(0, 3), st.integers(0, 600 * KIB), st.integers(3 << 20, 5 << 20), st.integers(0, 40 << 20)),
    max_size=12,
)
START = st.integers(0, 3 << 20)


def plan(
    sizes: list[int], starts: dict[int, int] | None = None, extents: dict[int, list[tuple[int, int]]] | None = None
) -> Plan:
    size = np.array(sizes, np.uint64)
    return plan_chunks(size, np.arange(len(sizes)), starts or {}, extents or {})


def segments(found: Plan, row: int) -> list[tuple[int, int]]:
    mine = found.row == row
    return sorted(zip(found.file_offset[mine].tolist(), found.length[mine].tolist(), strict=True))


def assert_covers(found: list[tuple[int, int]], extents: list[tuple[int, int]]) -> None:
    """The segments, joined where they touch, are the extents, joined where they touch."""

    def joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
        out: list[tuple[int, int]] = []
        for offset, length in ranges:
            if length == 0:
                continue
            if out and sum(out[-1]) == offset:
                out[-1] = (out[-1][0], out[-1][1] + length)
            else:
                assert not out or sum(out[-1]) < offset
                out.append((offset, length))
        return out

    assert joined(found) == joined(extents)


@st.composite
def sparse(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Ascending, disjoint (offset, length)."""
    out, at = [], 0
    for hole, length in draw(st.lists(st.tuples(st.integers(1, 9 << 20), st.integers(1, 20 << 20)), max_size=4)):
        out.append((at + hole, length))
        at += hole + length
    return out


@given(SIZES, st.lists(START, max_size=12), st.lists(sparse(), max_size=3))
def test_every_byte_once_in_bounded_chunks(
    sizes: list[int], starts: list[int], holes: list[list[tuple[int, int]]]
) -> None:
    """Data is covered exactly, holes not at all; no chunk is empty or above 8 MiB; equal input gives an equal plan."""
    extents = {}
    for row, ranges in enumerate(holes[: len(sizes)]):
        extents[row] = ranges
        sizes[row] = sum(ranges[-1]) + 5 if ranges else 5
    given_starts = {row: start for row, start in enumerate(starts[: len(sizes)]) if start < sizes[row]}
    found = plan(sizes, given_starts, extents)
    for row, size in enumerate(sizes):
        assert_covers(segments(found, row), extents.get(row, [(0, size)]))
    raw = found.raw_bytes()
    assert len(found) == 0 or 0 < raw.min() <= raw.max() <= CHUNK
    assert raw.sum() == found.length.sum()
    again = plan(sizes, given_starts, extents)
    for column in ("row", "file_offset", "length", "first"):
        assert np.array_equal(getattr(found, column), getattr(again, column))


@given(SIZES)
def test_places_in_chunks_follow_the_segments(sizes: list[int]) -> None:
    """Segments lie in their chunk one after another, from its first byte to its last."""
    found = plan(sizes)
    offsets, chunk = found.chunk_offsets().tolist(), found.chunk_of_segments().tolist()
    ends: dict[int, int] = {}
    for at, where, length in zip(offsets, chunk, found.length.tolist(), strict=True):
        assert at == ends.get(where, 0)
        ends[where] = at + length
    assert ends == dict(enumerate(found.raw_bytes().tolist()))


@given(START, START, st.integers(5 << 20, 60 << 20))
def test_a_longer_header_shifts_no_chunk(before: int, after: int, data_bytes: int) -> None:
    """Tensor data is cut at the same places, measured from its beginning, whatever lies before it."""

    def cuts(start: int) -> list[tuple[int, int]]:
        found = segments(plan([start + data_bytes], {0: start}), 0)
        return [(offset - start, length) for offset, length in found if offset >= start]

    assert cuts(before) == cuts(after)


@given(START, sparse())
def test_holes_shift_no_chunk(start: int, extents: list[tuple[int, int]]) -> None:
    """A sparse file is cut on the same grid as a full one: where both hold a whole cell, they hold it alike."""
    size = sum(extents[-1]) if extents else 1
    start = min(start, size - 1)
    for offset, length in segments(plan([size], {0: start}, {0: extents}), 0):
        if offset >= start:
            assert (offset - start) // CHUNK == (offset + length - 1 - start) // CHUNK
    full = set(segments(plan([size], {0: start}, {0: [(0, size)]}), 0))
    for cell in range(start, size - CHUNK + 1, CHUNK):
        inside = any(offset <= cell and cell + CHUNK <= offset + length for offset, length in extents)
        if inside:
            assert (cell, CHUNK) in full & set(segments(plan([size], {0: start}, {0: extents}), 0))


@given(st.lists(st.integers(1, CHUNK), min_size=1, max_size=400), st.integers(1, 32))
def test_parts_are_balanced_and_none_is_empty(raw: list[int], parts: int) -> None:
    """Chunks are dealt in order, each once; a part is at most two chunks larger than an equal share."""
    dealt = split_parts(np.array(raw, np.int64), list(range(parts)))
    assert [chunk for _, chunks in dealt for chunk in chunks.tolist()] == list(range(len(raw)))
    assert [number for number, _ in dealt] == list(range(min(parts, len(raw))))
    sizes = [int(np.array(raw)[chunks].sum()) for _, chunks in dealt]
    assert min(sizes) > 0
    if len(raw) >= 2 * parts:
        assert max(sizes) <= sum(raw) / len(dealt) + 2 * CHUNK


@given(st.lists(st.integers(9 << 20, 90 << 20), min_size=30, max_size=60))
def test_a_full_snapshot_has_32_parts(sizes: list[int]) -> None:
    """256 MiB or more are always 32 parts, and each of them has something in it."""
    raw = plan(sizes).raw_bytes()
    assert parts_for(int(raw.sum()), limits.PARTS) == limits.PARTS
    dealt = split_parts(raw, list(range(parts_for(int(raw.sum()), limits.PARTS))))
    assert len(dealt) == 32 and all(len(chunks) for _, chunks in dealt)


def test_the_smallest_full_snapshot_has_32_parts() -> None:
    """Just 256 MiB in one file is 32 chunks, one for each part; a byte less may have fewer parts."""
    raw = plan([limits.FULL_BYTES_MIN]).raw_bytes()
    assert [len(chunks) for _, chunks in split_parts(raw, list(range(32)))] == [1] * 32
    assert parts_for(limits.FULL_BYTES_MIN, 32) == 32
    assert parts_for(1, 32) == 1 and parts_for(9 << 20, 32) == 2


def test_bundles_keep_small_files_together() -> None:
    """Ten thousand small files become a few chunks, between those of a large file and not all behind them."""
    found = plan([500] * 20_000 + [64 << 20])
    assert len(found) == 8 + 3
    bundled = [chunk for chunk in range(len(found)) if found.first[chunk + 1] - found.first[chunk] > 1]
    assert bundled != list(range(8, 11)) and len(bundled) == 3
