"""nvCOMP's rANS on a lane: batches of chunks to the form of nvcomp_form.py and back.

What was coded is decoded again on the device and compared there, before it leaves: a card whose memory flips bits
(few have ECC on) would otherwise write a snapshot whose damage is first noticed when it is woken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from poorwill.codecs.gpu import layout as gpu_layout
from poorwill.codecs.gpu import nvcomp_form
from poorwill.codecs.gpu.lanes import Array, Coded, Lane
from poorwill.codecs.gpu.layout import stacked
from poorwill.codecs.gpu.nvcomp_form import Form
from poorwill.codecs.gpu.queue import Request
from poorwill.errors import Corrupt, DeviceFailed

STREAM_CHUNK_BYTES = 512 << 10
"""How much nvCOMP codes with one table. Its header takes 128 bytes for each lane state and sub-chunk (8 of them): 1.6%
of 64 KiB, 0.2% of this. `make bench-gpu` compares sizes."""
STATES = 1


@dataclass(slots=True)
class _Item:
    """A chunk on the device: its raw bytes, and its planes if it is split."""

    request: Request
    at: int
    raw: Array
    planes: list[Array] = field(default_factory=list)
    place: list[int] = field(default_factory=list)  # of the planes, in their buffer

    @property
    def form(self) -> Form:
        form: Form = self.request.form
        return form


def ans(lane: Lane, kind: str, chunk_bytes: int = STREAM_CHUNK_BYTES, states: int = STATES, **options: Any) -> Any:
    """nvCOMP's coder."""
    return lane.codec(
        algorithm="ANS", data_type=kind, uncomp_chunk_size=chunk_bytes, states_per_lane=states,
        bitstream_kind=lane.nvcomp.BitstreamKind.NVCOMP_NATIVE, **options,
    )  # fmt: skip


def decoder(lane: Lane) -> Any:
    """A codec for any stream: it reads from the first stream of a batch how all of them were coded."""
    return lane.codec(bitstream_kind=lane.nvcomp.BitstreamKind.NVCOMP_NATIVE)


def encode(lane: Lane, requests: list[Request]) -> None:
    """Set the size of each request: what was written to its `out`, or None. DeviceFailed if the device miscodes."""
    items = loaded(lane, requests)
    for split in (False, True):
        for kind in ("|u1", "<f2", "<f4"):
            group = [item for item in items if (item.form.split, item.form.type) == (split, kind)]
            if group:
                _encode_group(lane, group, kind)


def loaded(lane: Lane, requests: list[Request]) -> list[_Item]:
    """The chunks' bodies on the device, split into planes where their form is."""
    bodies = [request.form.body(len(request.source)) for request in requests]
    offsets, end = stacked(bodies)
    raw = lane.buffer("raw", end)
    items = [
        _Item(request, at, raw[at : at + body]) for request, at, body in zip(requests, offsets, bodies, strict=True)
    ]
    for item, body in zip(items, bodies, strict=True):
        lane.copy_in(item.raw, item.request.source[:body])
    split = [item for item in items if item.form.split]
    places, end = stacked([item.raw.size // item.form.width for item in split for _ in range(item.form.width)])
    buffer = lane.buffer("planes", end) if split else raw
    for item in split:
        width, size = item.form.width, item.raw.size // item.form.width
        item.place, places = places[:width], places[width:]
        item.planes = [buffer[at : at + size] for at in item.place]
        gpu_layout.split(lane.cupy, item.raw, width, item.form.rotated, item.planes)
    return items


def _encode_group(lane: Lane, group: list[_Item], kind: str) -> None:
    split = group[0].form.split
    places: list[tuple[int, int]] = []
    for item in group:
        if split:
            places += [(item.place[k], item.planes[k].size) for k in range(item.form.width) if item.form.is_coded(k)]
        else:
            places.append((item.at, item.raw.size))
    area = lane.buffer("planes" if split else "raw", max(at + size for at, size in places))
    coded = lane.compress(ans(lane, kind), area, kind, places)
    first = 0
    for item in group:
        count = sum(item.form.is_coded(k) for k in range(item.form.streams))
        _store(lane, item, [coded.stream(first + n) for n in range(count)])
        first += count
    # Copies run meanwhile: what they write counts only if this raises nothing.
    check(lane, ans(lane, kind), coded, [area[at : at + size] for at, size in places])
    lane.synchronize()


def check(lane: Lane, codec: Any, coded: Coded, sources: list[Array]) -> None:
    """DeviceFailed unless `coded` decodes to `sources`: this alone guards a snapshot from a card that miscodes, because
    nvCOMP's Python module does not look at the status of each stream."""
    offsets, end = stacked([source.size for source in sources])
    buffer = lane.buffer("check", end)
    backs = [buffer[at : at + source.size] for at, source in zip(offsets, sources, strict=True)]
    lane.decompress(codec, coded.batch, backs)
    if lane.differ(list(zip(backs, sources, strict=True))):
        raise DeviceFailed("what the GPU coded does not decode to its input: the GPU is not used any more")


def _store(lane: Lane, item: _Item, coded: list[Array]) -> None:
    """Begin to copy a coded chunk out, if that is smaller."""
    request, form, left = item.request, item.form, iter(coded)
    streams = [next(left) if form.is_coded(k) else item.planes[k] for k in range(form.streams)]
    sizes = [stream.size for stream in streams]
    offsets, end = nvcomp_form.placed(form, len(request.source), sizes)
    if end > len(request.out) or end >= len(request.source):
        return
    nvcomp_form.write(form, request.source, sizes, request.out)
    for offset, stream in zip(offsets, streams, strict=True):
        lane.copy_out(request.out[offset : offset + stream.size], stream)
    request.size = end


def decode(lane: Lane, requests: list[Request]) -> None:
    """Fill each request's `out`. Corrupt if any of them is damaged; which one is not known."""
    offsets, end = stacked([len(request.source) for request in requests])
    stored = lane.buffer("coded", end)
    bodies = [request.form.body(len(request.out)) for request in requests]
    places, end = stacked(bodies)
    raw = lane.buffer("raw", end)
    planes = _plane_buffers(lane, requests, bodies)
    groups: dict[str, tuple[list[Array], list[Array]]] = {}
    joins: list[tuple[Request, list[Array], Array]] = []
    for n, (request, at) in enumerate(zip(requests, offsets, strict=True)):
        lane.copy_in(stored[at : at + len(request.source)], request.source)
        whole = raw[places[n] : places[n] + bodies[n]]
        _, streams, _ = nvcomp_form.read(request.source, len(request.out))
        views = [stored[at + s.offset : at + s.offset + s.size] for s in streams]
        own = planes[n] if request.form.split else [whole]
        sources, targets = groups.setdefault(request.form.type, ([], []))
        sources += [view for view, s in zip(views, streams, strict=True) if s.coded]
        targets += [buffer for buffer, s in zip(own, streams, strict=True) if s.coded]
        parts = [buffer if s.coded else view for buffer, view, s in zip(own, views, streams, strict=True)]
        joins.append((request, parts, whole))
    for kind, (sources, targets) in groups.items():
        _decompress(lane, kind, sources, targets, alone=len(requests) == 1)
    for request, parts, whole in joins:
        if request.form.split:
            gpu_layout.join(lane.cupy, parts, request.form.rotated, whole)
        lane.copy_out(request.out[: whole.size], whole)
        request.out[whole.size :] = request.source[len(request.source) - (len(request.out) - whole.size) :]
    lane.synchronize()


def _decompress(lane: Lane, kind: str, sources: list[Array], targets: list[Array], *, alone: bool) -> None:
    """With the options of this version; a request that is `alone` also with those its streams name: another version may
    have written them."""
    for codec in (ans(lane, kind), decoder(lane)) if alone else (ans(lane, kind),):
        try:
            return lane.decompress(codec, lane.nvcomp.as_arrays(sources, lane.stream.ptr), targets)
        except (ValueError, RuntimeError) as caught:
            error = caught
    raise Corrupt(f"nvcomp-ans/6: {type(error).__name__}: {error}") from error


def _plane_buffers(lane: Lane, requests: list[Request], bodies: list[int]) -> list[list[Array]]:
    sizes = [
        [body // r.form.width] * r.form.width if r.form.split else [] for r, body in zip(requests, bodies, strict=True)
    ]
    offsets, end = stacked([size for each in sizes for size in each])
    buffer, at = lane.buffer("planes", max(end, 1)), iter(offsets)
    return [[buffer[start : start + size] for size, start in zip(each, at, strict=False)] for each in sizes]
