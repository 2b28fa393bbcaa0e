"""Codec 2, planes, written by a GPU: the same bytes to any reader, with zstd frames that nvCOMP made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import zstandard

from poorwill.codecs import planes
from poorwill.codecs.gpu.ans import check, loaded
from poorwill.codecs.gpu.lanes import Array, Coded, Lane
from poorwill.codecs.gpu.queue import Request
from poorwill.codecs.planes import PLANE_BLOCK_BYTES
from poorwill.errors import Unsupported


@dataclass(slots=True)
class _Block:
    """Plane `k` of a block: where it is on the device, and its coded bytes if they are fewer."""

    k: int
    at: int
    plane: Array
    coded: Array | None = None

    @property
    def stored(self) -> Array:
        return self.plane if self.coded is None else self.coded


def zstd(lane: Lane) -> Any:
    """Frames with nothing of nvCOMP's around them."""
    raw = lane.nvcomp.BitstreamKind.RAW
    return lane.codec(algorithm="Zstd", uncomp_chunk_size=PLANE_BLOCK_BYTES, bitstream_kind=raw)


def encode(lane: Lane, requests: list[Request]) -> None:
    """Set the size of each request, as ans.encode does. Unsupported for frames that not every reader takes."""
    items = loaded(lane, requests)
    by_item: list[list[_Block]] = []
    for item in items:
        whole, starts = (item.planes, item.place) if item.form.split else ([item.raw], [item.at])
        size = whole[0].size
        by_item.append([
            _Block(k, starts[k] + at, whole[k][at : at + PLANE_BLOCK_BYTES])
            for at in range(0, size, PLANE_BLOCK_BYTES) for k in range(item.form.width)
        ])  # fmt: skip
    for split in (False, True):
        group = [b for item, each in zip(items, by_item, strict=True) if item.form.split == split
                 for b in each if item.form.is_coded(b.k)]  # fmt: skip
        if group:
            coded, sources = _code(lane, group, "planes" if split else "raw")
            for item, each in zip(items, by_item, strict=True):
                if item.form.split == split:
                    _store(lane, item.request, each)
            check(lane, zstd(lane), coded, sources)
            # The buffer of coded bytes is used again: what is in it goes out first.
            lane.synchronize()
    for request in requests:
        _check_frames(request)


def _code(lane: Lane, group: list[_Block], buffer: str) -> tuple[Coded, list[Array]]:
    area = lane.buffer(buffer, max(block.at + block.plane.size for block in group))
    coded = lane.compress(zstd(lane), area, "|u1", [(block.at, block.plane.size) for block in group])
    for number, block in enumerate(group):
        stream = coded.stream(number)
        block.coded = stream if stream.size < block.plane.size else None
    return coded, [block.plane for block in group]


def _store(lane: Lane, request: Request, blocks: list[_Block]) -> None:
    form = request.form
    layout = planes.Layout(form.width, form.rotated, form.coded)
    sizes = [(block.stored.size, block.coded is not None) for block in blocks]
    at = planes.begin(request.source, request.out, layout, sizes)
    if at is None:
        return
    request.size = at + sum(size for size, _ in sizes) + len(request.source) - form.body(len(request.source))
    for block in blocks:
        lane.copy_out(request.out[at : at + block.stored.size], block.stored)
        at += block.stored.size
    request.out[at : request.size] = request.source[form.body(len(request.source)) :]


def _check_frames(request: Request) -> None:
    """A reader may ask every frame for its content size, which the format allows a writer to leave out."""
    if request.size is None:
        return
    for frame, count in planes.frames(request.out[: request.size], len(request.source)):
        if zstandard.get_frame_parameters(frame).content_size != count:
            raise Unsupported("nvCOMP writes zstd frames that do not say their content size")
