"""Small pictures of a video: what a page, a message or an artifact shows instead of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator

from PIL import Image

from poorwill.errors import UsageError
from poorwill.media.frames import Frames, check_frames

SHEET_QUALITIES = (85, 70, 55, 40)  # below the last, blocks show more than a smaller picture loses
SHEET_BYTES_MAX = 70_000  # in base64 93,336 letters: a Markdown artifact of Prefect holds less than 100 KB
SHEET_BYTES_LEAST = 8_000  # several times what noise makes of CELLS_MAX x CELLS_MAX cells of one pixel
SHEET_SIDE_PIXELS_MAX = 4096
CELLS_MAX = 16  # a side
_GAP_PIXELS = 2


def poster(frames: Frames) -> bytes:
    """The first of `frames` (uint8, n x height x width x 3, sRGB) in its own size, as a JPEG."""
    check_frames(frames)
    return _jpeg(Image.fromarray(frames[0]), quality=85)


def contact_sheet(
    frames: Frames, *, columns: int = 4, rows: int = 2, width_max: int = 1024, bytes_max: int = SHEET_BYTES_MAX
) -> bytes:
    """`columns` x `rows` of `frames` (uint8, n x height x width x 3, sRGB) in reading order, as a JPEG.

    They are evenly spread, the first and the last among them (the first alone in a single cell), each once: a
    video of fewer frames has fewer cells. None is enlarged. The sheet is at most `width_max` pixels wide and
    SHEET_SIDE_PIXELS_MAX high, and never more than `bytes_max` bytes: first its quality is lowered, then its size.

    UsageError for frames and numbers that cannot be: `bytes_max` below SHEET_BYTES_LEAST among them.
    """
    check_frames(frames)
    if not (1 <= columns <= CELLS_MAX and 1 <= rows <= CELLS_MAX):
        raise UsageError(f"a contact sheet has 1 to {CELLS_MAX} columns and rows, not {columns} and {rows}")
    if not 64 <= width_max <= SHEET_SIDE_PIXELS_MAX:
        raise UsageError(f"a contact sheet is 64 to {SHEET_SIDE_PIXELS_MAX} pixels wide, not {width_max}")
    if bytes_max < SHEET_BYTES_LEAST:
        raise UsageError(f"a contact sheet has {SHEET_BYTES_LEAST} bytes or more to fit in, not {bytes_max}")
    chosen = spread(len(frames), columns * rows)
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    cells: Iterable[Image.Image] = (Image.fromarray(frames[index]) for index in chosen)
    for size in _cell_sizes((frames.shape[2], frames.shape[1]), columns, rows, width_max):
        cells = [cell.resize(size, Image.Resampling.LANCZOS) for cell in cells]
        sheet = _sheet(cells, columns, rows)
        for quality in SHEET_QUALITIES:
            jpeg = _jpeg(sheet, quality)
            if len(jpeg) <= bytes_max:
                return jpeg
    raise AssertionError("the smallest sheet is smaller than SHEET_BYTES_LEAST")


def spread(frames: int, cells: int) -> list[int]:
    """The indices of at most `cells` of so many frames: evenly spread, rising, the first and the last among them."""
    steps = min(cells, frames) - 1
    if not steps:
        return [0]
    return [(index * (frames - 1) + steps // 2) // steps for index in range(steps + 1)]


def as_data_url(jpeg: bytes) -> str:
    """The picture inside its own address (RFC 2397), for where nothing else can be fetched; a third larger."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _cell_sizes(frame: tuple[int, int], columns: int, rows: int, width_max: int) -> Iterator[tuple[int, int]]:
    """Width and height of a cell in the frame's proportions: the largest that fits, then ever smaller, to one pixel."""
    width, height = frame
    scale = min(
        1.0,
        (width_max - _GAP_PIXELS * (columns - 1)) / columns / width,
        (SHEET_SIDE_PIXELS_MAX - _GAP_PIXELS * (rows - 1)) / rows / height,
    )
    while True:
        size = max(1, int(width * scale)), max(1, int(height * scale))
        yield size
        if size == (1, 1):
            return
        scale *= 0.8


def _sheet(cells: list[Image.Image], columns: int, rows: int) -> Image.Image:
    width, height = cells[0].size
    across, down = width + _GAP_PIXELS, height + _GAP_PIXELS
    sheet = Image.new("RGB", (columns * across - _GAP_PIXELS, rows * down - _GAP_PIXELS), (24, 24, 24))
    for index, cell in enumerate(cells):
        sheet.paste(cell, (index % columns * across, index // columns * down))
    return sheet


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=quality, optimize=True, progressive=True)
    return written.getvalue()
