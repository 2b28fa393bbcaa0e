"""On the device alone: nvCOMP's own element types beside planes that CuPy split, with other options, on other data."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from bench.chunks import chunk
from bench.gpu.device import NewTimer, Sizes, Timer, affordable, timed
from bench.gpu.report import GpuReport, Row, gb_s
from poorwill.codecs.chooser import estimate
from poorwill.codecs.gpu import ans, nvcomp_form
from poorwill.codecs.gpu import layout as gpu_layout
from poorwill.codecs.gpu.lanes import Array, Coded, Lane
from poorwill.codecs.gpu.layout import stacked
from poorwill.codecs.gpu.nvcomp_form import Form
from poorwill.codecs.planes import Layout

BF16 = Layout(2, True, 0b10)
KINDS = ("bf16", "fp16", "fp32", "fp32 of bf16", "fp8 e4m3", "fp8 e5m2", "int8")
SEEDS = 4
"""Items are of so many different contents, in turn."""
CHUNK_KIB = (64, 128, 256, 512, 1024)
STATES = (1, 2)
SUB_CHUNKS = (0, 4, 16)
"""0: nvCOMP's default."""
ELEMENTS = {"|u1": "uint8", "|f1": "uint8", "<f2": "float16", "<f4": "float32"}


@dataclass(frozen=True, slots=True)
class Options:
    """nvCOMP's, for ANS; 0: its default."""

    chunk_bytes: int = ans.STREAM_CHUNK_BYTES
    states: int = ans.STATES
    sub_chunks: int = 0
    histogram_reduction: int = 0

    def coder(self, lane: Lane, kind: str) -> Any:
        more = {"max_sub_chunk_count": self.sub_chunks, "histogram_reduction_log2": self.histogram_reduction}
        given = {name: value for name, value in more.items() if value}
        return ans.ans(lane, kind, self.chunk_bytes, self.states, **given)


@dataclass(slots=True)
class Batch:
    """Items of one kind of data, one behind the other on the device. They lie there until the batch is let go."""

    lane: Lane
    item_bytes: int
    raw: Array
    sample: memoryview

    @classmethod
    def of(cls, lane: Lane, kind: str, sizes: Sizes, batch_bytes: int) -> Batch:
        items = [chunk(kind, sizes.item_bytes, seed) for seed in range(SEEDS)]
        with lane:
            raw = lane.cupy.empty(batch_bytes, lane.cupy.uint8)
            for number, at in enumerate(range(0, batch_bytes, sizes.item_bytes)):
                lane.copy_in(raw[at : at + sizes.item_bytes], items[number % SEEDS])
            lane.synchronize()
        return cls(lane, sizes.item_bytes, raw, items[0])

    @property
    def size(self) -> int:
        return int(self.raw.size)

    def item(self, number: int) -> Array:
        return self.raw[number * self.item_bytes : (number + 1) * self.item_bytes]

    @property
    def count(self) -> int:
        return self.size // self.item_bytes


@dataclass(slots=True)
class Trial:
    """One way to code a batch: `form`, whose streams are elements of `kind`, with nvCOMP's `options`."""

    batch: Batch
    form: Form
    kind: str
    options: Options
    planes: list[list[Array]] = field(default_factory=list)
    back: list[list[Array]] = field(default_factory=list)
    area: Array = None
    places: list[tuple[int, int]] = field(default_factory=list)
    coded: Any = None

    def __post_init__(self) -> None:
        lane, batch, width = self.batch.lane, self.batch, self.form.width
        self.area = batch.raw
        self.places = [(number * batch.item_bytes, batch.item_bytes) for number in range(batch.count)]
        if self.form.split:
            size = batch.item_bytes // width
            self.area, other = (lane.cupy.empty(batch.size, lane.cupy.uint8) for _ in range(2))
            starts = [[(n * width + k) * size for k in range(width)] for n in range(batch.count)]
            self.planes, self.back = ([[room[at : at + size] for at in each] for each in starts]
                                      for room in (self.area, other))  # fmt: skip
            self.places = [(each[k], size) for each in starts for k in range(width) if self.form.is_coded(k)]

    def prepared(self) -> tuple[Any, Any, Array, list[int]]:
        """What nvCOMP is given: batches of sources and of rooms, the latter new, as it may note sizes in them."""
        lane, coder = self.batch.lane, self.options.coder(self.batch.lane, self.kind)
        nvcomp, stream = lane.nvcomp, lane.stream.ptr
        view = self.area.view(getattr(lane.cupy, ELEMENTS[self.kind]))
        source = nvcomp.as_arrays(view, *map(list, zip(*self.places, strict=True)), stream)
        most = int(coder.get_max_comp_buffer_size(nvcomp.as_array(self.area[: self.places[0][1]], stream)))
        offsets, end = stacked([most] * len(self.places))
        room = lane.buffer("coded", end)
        return source, nvcomp.as_arrays(room, offsets, [most] * len(offsets), stream), room, offsets

    def encode(self, ready: tuple[Any, Any, Array, list[int]]) -> Any:
        source, out, room, offsets = ready
        if self.form.split:
            for number, planes in enumerate(self.planes):
                gpu_layout.split(
                    self.batch.lane.cupy, self.batch.item(number), self.form.width, self.form.rotated, planes
                )
        done = self.options.coder(self.batch.lane, self.kind).encode(source, out=out)
        self.coded = done, room, offsets
        return done

    def checked(self, ready: tuple[Any, Any, Array, list[int]]) -> None:
        """As the engine does it."""
        done = self.encode(ready)
        self.batch.lane.synchronize()
        coded = Coded(done, ready[2], ready[3], list(done.buffer_sizes))
        sources = [self.area[at : at + size] for at, size in self.places]
        ans.check(self.batch.lane, self.options.coder(self.batch.lane, self.kind), coded, sources)

    def targets(self, raw: Array) -> tuple[Any, Any]:
        """Batches of the streams and of where they decode to."""
        lane, stream = self.batch.lane, self.batch.lane.stream.ptr
        done, room, offsets = self.coded
        lane.synchronize()
        streams = [room[at : at + size] for at, size in zip(offsets, done.buffer_sizes, strict=True)]
        items = [raw[n * self.batch.item_bytes : (n + 1) * self.batch.item_bytes] for n in range(self.batch.count)]
        outs = [plane for each in self.back for k, plane in enumerate(each) if self.form.is_coded(k)] or items
        return lane.nvcomp.as_arrays(streams, stream), lane.nvcomp.as_arrays(outs, stream)

    def decode(self, raw: Array, batches: tuple[Any, Any], **config: Any) -> None:
        lane = self.batch.lane
        self.options.coder(lane, self.kind).decode(batches[0], out=batches[1], **config)
        for number, (planes, own) in enumerate(zip(self.back, self.planes, strict=True)):
            # A plane that is stored is joined from where it lies, as in a chunk.
            parts = [plane if self.form.is_coded(k) else own[k] for k, plane in enumerate(planes)]
            at = number * self.batch.item_bytes
            gpu_layout.join(lane.cupy, parts, self.form.rotated, raw[at : at + self.batch.item_bytes])

    def ratio(self) -> float:
        """Of the stored form, with its header and padding."""
        sizes, streams = list(self.coded[0].buffer_sizes), self.form.streams
        plane, total, item = self.batch.item_bytes // streams, 0, self.batch.item_bytes
        for _ in range(self.batch.count):
            each = [sizes.pop(0) if self.form.is_coded(k) else plane for k in range(streams)]
            total += nvcomp_form.placed(self.form, item, each)[1]
        return total / self.batch.size


def measure(trial: Trial, timer: Timer, runs: int, thorough: GpuReport | None) -> Row:
    """Ratio and speeds. thorough: where it is told if what is measured for it alone fails: coding with the check, and
    decoding with a configuration made beforehand."""
    lane, size = trial.batch.lane, trial.batch.size
    with lane:
        raw = lane.cupy.empty(size, lane.cupy.uint8)
        row: Row = {"compress_gb_s": gb_s(size, timed(timer, runs, trial.prepared, trial.encode))}
        row["decompress_gb_s"] = gb_s(
            size, timed(timer, runs, lambda: trial.targets(raw), lambda batches: trial.decode(raw, batches))
        )
        _same(lane, raw, trial.batch.raw)
        row["ratio"] = trial.ratio()
        if thorough is not None:
            row["compress_checked_gb_s"] = thorough.attempt(
                f"{trial.kind}, checked", lambda: gb_s(size, timed(timer, runs, trial.prepared, trial.checked))
            )
            row["decompress_configured_gb_s"] = thorough.attempt(
                f"{trial.kind}, configured", lambda: _configured(trial, timer, runs, raw)
            )
    lane.free()
    return row


def _same(lane: Lane, found: Array, expected: Array) -> None:
    if lane.differ([(found, expected)]):
        raise RuntimeError("what was decoded on the device differs from what was coded")


def _configured(trial: Trial, timer: Timer, runs: int, raw: Array) -> dict[str, float]:
    """Without reading the streams' headers first, which has to wait for the device."""
    coder = trial.options.coder(trial.batch.lane, trial.kind)
    config = coder.decompression_config(coder.compression_config([size for _, size in trial.places]))
    step = partial(trial.decode, raw, decompression_config=config)
    seconds = timed(timer, runs, lambda: trial.targets(raw), step)
    _same(trial.batch.lane, raw, trial.batch.raw)
    return gb_s(trial.batch.size, seconds)


def own_and_split(layout: Layout, kind: str) -> list[tuple[str, Form, str]]:
    """Every way that is compared for elements of a layout: its name, form and nvCOMP's element type."""
    width = layout.width
    ways = [(f"own {Form(width).type}", Form(width), Form(width).type)]
    if kind == "fp8 e4m3":
        ways.append(("own |f1", Form(1), "|f1"))
    if width > 1 and layout.coded:
        split = nvcomp_form.split_of(layout)
        ways.append((f"planes |u1, {bin(split.coded).count('1')} of {width} coded", split, "|u1"))
    return ways


def tried(
    batch: Batch, form: Form, kind: str, options: Options, timer: Timer, runs: int, thorough: GpuReport | None = None
) -> Row:
    """What `measure` finds of one way to code a batch."""
    with batch.lane:
        trial = Trial(batch, form, kind, options)
    return measure(trial, timer, runs, thorough)


def bf16(lane: Lane, new_timer: NewTimer, report: GpuReport, sizes: Sizes, *, quick: bool) -> None:
    """The targets' rows, then the sweep."""
    batch_bytes = affordable(lane, sizes)
    if batch_bytes < sizes.batch_bytes:
        report.note(f"batches on the device are {batch_bytes >> 20} MiB: its free memory allows no more")
    batch, timer = Batch.of(lane, "bf16", sizes, batch_bytes), new_timer(lane)
    for name, form, kind in own_and_split(BF16, "bf16"):
        step = partial(tried, batch, form, kind, Options(), timer, sizes.runs, report)
        row = report.attempt(f"on the device, {name}", step)
        if row:
            taken = form == nvcomp_form.form_of(BF16)
            report.add("resident", {"form": name, "taken": taken, "batch_mib": batch_bytes >> 20, **row})
    _sweep(batch, timer, report, max(1, sizes.runs // 3), quick=quick)


def _sweep(batch: Batch, timer: Timer, report: GpuReport, runs: int, *, quick: bool) -> None:
    every = [Options(kib << 10, states, sub) for kib, states, sub in product(CHUNK_KIB, STATES, SUB_CHUNKS)]
    every += [Options(histogram_reduction=n) for n in (1, 3)]
    for options in every[:: 8 if quick else 1]:
        for name, form, kind in own_and_split(BF16, "bf16"):
            told = {
                "form": name, "chunk_kib": options.chunk_bytes >> 10, "states_per_lane": options.states,
                "sub_chunks": options.sub_chunks or "default", "histogram": f"1/{1 << options.histogram_reduction}",
            }  # fmt: skip
            what = ", ".join(f"{option} {value}" for option, value in told.items())
            row = report.attempt(f"on the device, {what}", partial(tried, batch, form, kind, options, timer, runs))
            if row:
                report.add("sweep", {**told, **row})


def kinds(lane: Lane, new_timer: NewTimer, report: GpuReport, sizes: Sizes) -> None:
    """Every kind of data, by nvCOMP's own type and in planes, side by side; the codec takes what is marked."""
    batch_bytes, timer, runs = affordable(lane, sizes), new_timer(lane), max(1, sizes.runs // 3)
    for kind in KINDS:
        batch = Batch.of(lane, kind, sizes, batch_bytes)
        layout = estimate(batch.sample).layout
        for name, form, element in own_and_split(layout, kind):
            step = partial(tried, batch, form, element, Options(), timer, runs)
            row = report.attempt(f"on the device, {kind}, {name}", step)
            if row:
                taken = form == nvcomp_form.form_of(layout) and element == form.type
                report.add("kinds", {"kind": kind, "form": name, "taken": taken, **row})
        del batch
        lane.free()
