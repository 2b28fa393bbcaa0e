"""The stored form of nvcomp-ans/6: it round-trips, and anything else is corrupt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.codecs.gpu import layout as gpu_layout
from poorwill.codecs.gpu import nvcomp_form
from poorwill.codecs.gpu.nvcomp_form import ALIGNMENT, Form
from poorwill.codecs.planes import Layout
from poorwill.errors import Corrupt

layouts = st.sampled_from([1, 2, 4]).flatmap(
    lambda width: st.builds(Layout, st.just(width), st.booleans() if width > 1 else st.just(False),
                            st.integers(1, (1 << width) - 1))
)  # fmt: skip
forms = layouts.flatmap(lambda layout: st.sampled_from([nvcomp_form.form_of(layout), nvcomp_form.split_of(layout)]))


@given(forms, st.binary(min_size=4, max_size=400), st.data())
def test_the_form_round_trips(form: Form, raw: bytes, data: st.DataObject) -> None:
    """Streams of any sizes: none overlap, each begins at a multiple of 16, and the tail follows."""
    plane = form.body(len(raw)) // form.streams
    coded = st.integers(1, 300)
    sizes = [data.draw(coded) if form.is_coded(k) else plane for k in range(form.streams)]
    offsets, end = nvcomp_form.placed(form, len(raw), sizes)
    out, other = bytearray(b"\xee" * (end + 5)), bytearray(b"\x11" * (end + 5))
    for filled in (out, other):
        fill = filled[:1]
        nvcomp_form.write(form, memoryview(raw), sizes, memoryview(filled))
        for offset, size in zip(offsets, sizes, strict=True):
            assert offset % ALIGNMENT == 0
            assert filled[offset : offset + size] == fill * size, "streams are the device's"
            filled[offset : offset + size] = bytes(size)
        assert filled[end:] == fill * 5
    assert out[:end] == other[:end], "nothing is left as it was"
    found, streams, tail = nvcomp_form.read(memoryview(out)[:end], len(raw))
    assert (found.width, found.split, found.type) == (form.width, form.split, form.type)
    assert found.rotated == (form.rotated and form.split)
    assert [(s.offset, s.size, s.coded) for s in streams] == [
        (o, s, form.is_coded(k)) for k, (o, s) in enumerate(zip(offsets, sizes, strict=True))
    ]
    assert bytes(out[tail:end]) == raw[form.body(len(raw)) :]
    for wrong in (end - 1, end + 1):
        with pytest.raises(Corrupt):
            nvcomp_form.read(memoryview(out)[:wrong], len(raw))
    with pytest.raises(Corrupt):
        nvcomp_form.read(memoryview(out)[:end], len(raw) + 1)


@given(st.binary(max_size=120), st.integers(0, 5000))
def test_any_header_is_corrupt_or_within_bounds(stored: bytes, raw_bytes: int) -> None:
    """No header gives a stream outside of the stored bytes."""
    try:
        form, streams, tail = nvcomp_form.read(memoryview(stored), raw_bytes)
    except Corrupt:
        return
    assert all(s.size > 0 and s.offset + s.size <= len(stored) for s in streams) and form.coded
    assert len(stored) - tail == raw_bytes - form.body(raw_bytes)


@pytest.mark.parametrize(
    ("layout", "type_", "split"),
    [
        (Layout(2, True, 0b10), "<f2", False),  # bf16
        (Layout(2, False, 0b10), "<f2", False),  # fp16
        (Layout(4, True, 0b1000), "<f4", False),  # fp32
        (Layout(1, False, 1), "|u1", False),  # fp8, int8
        (Layout(4, True, 0b1011), "|u1", True),  # fp32 that was bf16: planes of zeros too
        (Layout(4, False, 0b1000), "|u1", True),  # integers: no exponent that nvCOMP would find
        (Layout(2, True, 0b11), "|u1", True),
    ],
)
def test_how_each_layout_is_coded(layout: Layout, type_: str, split: bool) -> None:
    """nvCOMP's own type where the exponent alone repeats, planes of bytes where others do too."""
    form = nvcomp_form.form_of(layout)
    assert (form.type, form.split) == (type_, split)
    assert nvcomp_form.split_of(layout).split == (layout.width > 1)


@given(st.sampled_from([1, 2, 4]), st.booleans(), st.binary(max_size=400))
def test_planes_join_again(width: int, rotated: bool, data: bytes) -> None:
    """Byte k of the rotated elements is plane k, by arithmetic on Python's integers; joined they are what they were."""
    raw = np.frombuffer(data[: len(data) // width * width], np.uint8)
    planes = [np.zeros(len(raw) // width, np.uint8) for _ in range(width)]
    gpu_layout.split(np, raw, width, rotated, planes)
    bits = 8 * width
    for number, at in enumerate(range(0, len(raw), width)):
        value = int.from_bytes(raw[at : at + width].tobytes(), "little")
        if rotated:
            value = (value << 1 | value >> (bits - 1)) % (1 << bits)
        assert [int(plane[number]) for plane in planes] == list(value.to_bytes(width, "little"))
    back = np.zeros(len(raw), np.uint8)
    gpu_layout.join(np, planes, rotated, back)
    assert (back == raw).all()
