"""Posters and contact sheets are decoded again: the right frames at the right places, in the bytes that are allowed."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from poorwill.errors import UsageError
from poorwill.media.previews import (
    CELLS_MAX,
    SHEET_BYTES_LEAST,
    SHEET_BYTES_MAX,
    as_data_url,
    contact_sheet,
    poster,
    spread,
)

Frames = npt.NDArray[np.uint8]


def grey(n: int, height: int = 72, width: int = 128) -> Frames:
    """Frame i of n is as bright as i / n: what stands where in a sheet can be read off it."""
    levels = np.linspace(40, 250, n).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (n, height, width, 3))


def noise(seed: int, n: int, height: int, width: int, *, extreme: bool = False) -> Frames:
    """What compresses worst; `extreme`: of nothing but 0 and 255."""
    frames = np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)
    return np.where(frames > 127, 255, 0).astype(np.uint8) if extreme else frames


def opened(jpeg: bytes) -> npt.NDArray[np.int_]:
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "RGB")
        return np.asarray(picture).astype(int)


def test_the_poster_is_the_first_frame() -> None:
    """In its own size, and close to it; whatever comes after."""
    frames = grey(5, 90, 160).copy()
    frames[0, :, :, 0] = np.linspace(0, 255, 160)
    assert opened(poster(frames)).shape == (90, 160, 3)
    assert np.abs(opened(poster(frames)) - frames[0]).mean() < 3
    assert poster(frames) == poster(frames[:1])


@settings(max_examples=200, deadline=None)
@given(frames=st.integers(1, 5000), cells=st.integers(1, CELLS_MAX**2))
def test_frames_are_spread_evenly(frames: int, cells: int) -> None:
    """As many as there are cells or frames, from the first to the last, with gaps that differ by one at most."""
    chosen = spread(frames, cells)
    assert len(chosen) == min(frames, cells)
    assert chosen[0] == 0
    if len(chosen) > 1:
        gaps = np.diff(chosen)
        assert chosen[-1] == frames - 1
        assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_a_sheet_in_reading_order() -> None:
    """Eight of 50 frames, four a row, each brighter than the one before, the first and the last in the corners."""
    frames = grey(50)
    sheet = opened(contact_sheet(frames))
    rows, columns = (sheet.shape[0] + 2) // 2, (sheet.shape[1] + 2) // 4
    assert (columns, rows) == (130, 74)  # not enlarged, and 2 pixels between
    found = [sheet[row * rows + 36, column * columns + 64, 0] for row in range(2) for column in range(4)]
    expected = [int(frames[index, 0, 0, 0]) for index in spread(50, 8)]
    assert np.abs(np.subtract(found, expected)).max() <= 2
    assert (expected[0], expected[-1]) == (40, 250)


def test_cells_are_separated_by_a_line() -> None:
    """Between cells runs a dark line, also between equal ones."""
    sheet = opened(contact_sheet(np.full((8, 72, 128, 3), 250, np.uint8)))
    for across in (128, 258, 388):
        assert sheet[30, across : across + 2].max() < 120
    assert sheet[72:74, 60].max() < 120


@pytest.mark.parametrize(
    ("n", "shape"), [(1, (72, 128)), (3, (72, 3 * 130 - 2)), (4, (72, 4 * 130 - 2)), (5, (2 * 74 - 2, 4 * 130 - 2))]
)
def test_fewer_frames_than_cells(n: int, shape: tuple[int, int]) -> None:
    """Each frame once, in no more rows and columns than they need; what is left of the last row is empty."""
    sheet = opened(contact_sheet(grey(n)))
    assert sheet.shape[:2] == shape
    assert sheet[36, 64].max() < 50  # the first
    row, column = divmod(n - 1, 4)
    if n > 1:
        assert sheet[row * 74 + 36, column * 130 + 64].min() > 240  # the last
    if n == 5:
        assert sheet[74 + 36, 130:].max() < 60


def test_one_cell_is_the_first_frame() -> None:
    """The smallest grid there is."""
    assert opened(contact_sheet(grey(9), columns=1, rows=1))[36, 64].max() < 50


@pytest.mark.parametrize(
    ("height", "width", "size"), [(720, 1280, (1022, 288)), (1280, 720, (1022, 906)), (8, 4000, (1022, 4))]
)
def test_a_sheet_is_no_wider_than_allowed(height: int, width: int, size: tuple[int, int]) -> None:
    """Cells keep the proportions of the frames."""
    sheet = opened(contact_sheet(grey(8, height, width)))
    assert (sheet.shape[1], sheet.shape[0]) == size
    assert opened(contact_sheet(grey(8, height, width), width_max=100)).shape[1] <= 100


def test_a_tall_frame_has_a_bound_too() -> None:
    """A JPEG cannot be higher than 65,500 pixels: one that would be is made smaller."""
    assert opened(contact_sheet(grey(2, 70_000, 2), columns=1, rows=2)).shape[0] <= 4096


def test_quality_goes_before_size() -> None:
    """A bound that a lower quality meets leaves the pixels; one that none meets takes them too."""
    frames = noise(0, 8, 180, 320)
    large = contact_sheet(frames, bytes_max=10**7)
    lower = contact_sheet(frames, bytes_max=len(large) - 1)
    smaller = contact_sheet(frames, bytes_max=SHEET_BYTES_LEAST)
    assert opened(large).shape == opened(lower).shape
    assert opened(smaller).shape[1] < opened(large).shape[1]
    assert len(smaller) <= SHEET_BYTES_LEAST < len(lower) < len(large)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 12),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    columns=st.integers(1, CELLS_MAX),
    rows=st.integers(1, CELLS_MAX),
    bytes_max=st.integers(SHEET_BYTES_LEAST, SHEET_BYTES_MAX),
    extreme=st.booleans(),
)
def test_no_noise_breaks_the_bound(
    seed: int, n: int, height: int, width: int, columns: int, rows: int, bytes_max: int, extreme: bool
) -> None:
    """Frames that do not compress, of any shape, in any grid: always a picture, never a byte too many."""
    frames = noise(seed, n, height, width, extreme=extreme)
    jpeg = contact_sheet(frames, columns=columns, rows=rows, bytes_max=bytes_max)
    assert len(jpeg) <= bytes_max
    assert min(opened(jpeg).shape[:2]) >= 1


def test_the_largest_grid_fits_into_the_fewest_bytes() -> None:
    """The promise's worst case: 256 cells of noise of two values, and the least bytes that may be asked for."""
    frames = noise(1, CELLS_MAX**2, 64, 64, extreme=True)
    jpeg = contact_sheet(frames, columns=CELLS_MAX, rows=CELLS_MAX, width_max=4096, bytes_max=SHEET_BYTES_LEAST)
    assert len(jpeg) <= SHEET_BYTES_LEAST


def test_a_sheet_of_noise_fits_into_an_artifact() -> None:
    """With the defaults, full frames of noise, as base64 in Markdown: below Prefect's 100 KB."""
    url = as_data_url(contact_sheet(noise(2, 8, 720, 1280, extreme=True)))
    assert len(f"![contact sheet]({url})".encode()) < 100_000
    assert len(as_data_url(bytes(SHEET_BYTES_MAX))) < 95_000


def test_a_data_url_holds_the_picture() -> None:
    """By RFC 2397: what stands behind the comma is the file."""
    jpeg = poster(grey(1))
    head, _, body = as_data_url(jpeg).partition(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(body, validate=True) == jpeg


def test_any_memory_layout() -> None:
    """Frames that are views give the same pictures as their copies."""
    frames = noise(3, 6, 40, 60)[::-1, ::2, ::-1]
    assert not frames.flags.c_contiguous
    assert contact_sheet(frames) == contact_sheet(frames.copy())
    assert poster(frames) == poster(frames.copy())


@pytest.mark.parametrize(
    ("frames", "options", "words"),
    [
        (grey(2)[:0], {}, "not uint8 of"),
        (grey(2)[0], {}, "not uint8 of"),
        (grey(2)[..., :1], {}, "not uint8 of"),
        (grey(2).astype(np.float32), {}, "not float32"),
        (np.zeros((2, 0, 8, 3), np.uint8), {}, "not uint8 of"),
        (grey(2), {"columns": 0}, "columns and rows"),
        (grey(2), {"rows": CELLS_MAX + 1}, "columns and rows"),
        (grey(2), {"width_max": 10}, "pixels wide"),
        (grey(2), {"bytes_max": SHEET_BYTES_LEAST - 1}, "bytes or more"),
    ],
)
def test_invalid_frames_and_options(frames: Frames, options: dict[str, int], words: str) -> None:
    """UsageErrors, of the poster too where it is the frames."""
    with pytest.raises(UsageError, match=words):
        contact_sheet(frames, **options)
    if not options:
        with pytest.raises(UsageError, match=words):
            poster(frames)
