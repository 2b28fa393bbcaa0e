"""Decoding pictures: what comes out of good files, and that bad ones are refused before they cost anything."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from poorwill.errors import PoorwillError, Refused, UsageError
from poorwill.media.pictures import decode, format_of
from tests.unit.media.picture_files import chunk, encoded, plain, png

PIXELS_MAX = 1_000_000
PNG, JPEG, WEBP = (plain(name) for name in ("PNG", "JPEG", "WEBP"))


def near(found: tuple[int, ...] | float | None, expected: tuple[int, int, int]) -> bool:
    """Equal but for what a lossy format may lose."""
    return isinstance(found, tuple) and all(abs(a - b) < 8 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats(name: str) -> None:
    """Become RGB pixels of the same size, without anything else from the file."""
    data = plain(name, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0", icc_profile=b"profile")
    picture = decode(data, pixels_max=PIXELS_MAX)
    assert format_of(data) == name
    assert (picture.mode, picture.size, picture.info) == ("RGB", (32, 24), {})
    assert near(picture.getpixel((5, 5)), (200, 30, 60))


def _quarters(mode: str = "RGB") -> Image.Image:
    """Red at the upper left, green at the upper right, blue at the lower left, white at the lower right."""
    picture = Image.new("RGB", (64, 32), "white")
    for color, corner in (("red", (0, 0)), ("lime", (32, 0)), ("blue", (0, 16))):
        picture.paste(color, (*corner, corner[0] + 32, corner[1] + 16))
    return picture.convert(mode)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(name: str, orientation: int) -> None:
    """A picture that a camera stored turned or mirrored comes out upright, whatever its format."""
    stored = {  # what undoes each orientation of EXIF
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turn = stored.get(orientation)
    file = _quarters() if turn is None else _quarters().transpose(turn)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture = decode(encoded(file, name, exif=exif.tobytes(), quality=95), pixels_max=PIXELS_MAX)
    assert picture.size == (64, 32)
    assert near(picture.getpixel((8, 4)), (255, 0, 0))
    assert near(picture.getpixel((56, 4)), (0, 255, 0))
    assert near(picture.getpixel((8, 28)), (0, 0, 255))


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0broken", b"Exif\0\0MM\0*\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"],
    ids=["header", "short", "far", "many"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif(name: str, exif: bytes) -> None:
    """Is ignored: the picture is good without."""
    assert decode(plain(name, exif=exif), pixels_max=PIXELS_MAX).size == (32, 24)


@pytest.mark.parametrize(
    ("color", "expected"),
    [((200, 30, 60, 0), (255, 255, 255)), ((200, 30, 60, 255), (200, 30, 60)), ((0, 0, 0, 128), (127, 127, 127))],
)
@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_transparency_is_laid_on_white(name: str, color: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    """Wholly and half transparent pixels; the colour hidden below full transparency does not show."""
    data = encoded(Image.new("RGBA", (16, 16), color), name, lossless=True)
    assert near(decode(data, pixels_max=PIXELS_MAX).getpixel((3, 3)), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_color(mode: str) -> None:
    """PNG's other kind of transparency, one colour of the palette or of all, is laid on white too."""
    picture = Image.new(mode, (16, 16), 0)
    transparent = (0, 0, 0) if mode == "RGB" else 0
    data = encoded(picture, "PNG", transparency=transparent)
    assert decode(data, pixels_max=PIXELS_MAX).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize(("name", "mode"), [("PNG", "LA"), ("PNG", "P"), ("PNG", "1"), ("JPEG", "L"), ("JPEG", "CMYK")])
def test_other_modes(name: str, mode: str) -> None:
    """Become RGB with the same look."""
    picture = decode(encoded(_quarters(mode), name), pixels_max=PIXELS_MAX)
    assert picture.mode == "RGB"
    assert near(picture.getpixel((60, 30)), (255, 255, 255))


@pytest.mark.parametrize("options", [{}, {"transparency": 65535}])
@pytest.mark.parametrize(("grey", "expected"), [(0, 0), (257, 1), (32895, 128), (65535, 255)])
def test_sixteen_bits(grey: int, expected: int, options: dict[str, int]) -> None:
    """Greys of 16 bits become those of 8, and not white from 256 on."""
    data = encoded(Image.new("I;16", (16, 16), grey), "PNG", **options)
    assert decode(data, pixels_max=PIXELS_MAX).getpixel((3, 3)) == (expected,) * 3


@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_the_first_frame(name: str) -> None:
    """Of an animation."""
    second = Image.new("RGB", (16, 16), "blue")
    data = encoded(Image.new("RGB", (16, 16), "red"), name, save_all=True, append_images=[second], lossless=True)
    assert decode(data, pixels_max=PIXELS_MAX).getpixel((3, 3)) == (255, 0, 0)


def test_a_camera_s_two_pictures_in_one() -> None:
    """A JPEG file with another one after it (MPO), as some phones write them: the first one."""
    second = Image.new("RGB", (16, 16), "blue")
    data = encoded(Image.new("RGB", (16, 16), "red"), "MPO", save_all=True, append_images=[second])
    assert near(decode(data, pixels_max=PIXELS_MAX).getpixel((3, 3)), (255, 0, 0))


# --- what is refused


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "empty"),
        (plain("GIF"), "a GIF"),
        (plain("BMP"), "BMP"),
        (plain("TIFF"), "TIFF"),
        (b"\0\0\0\x1cftypheic\0\0\0\0", "heic"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "avif"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04", "ZIP"),
        (b"\x1f\x8b\x08", "gzip"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf\n <svg/>", "SVG"),
        (b"<!DOCTYPE html><title>Sign in</title>", "HTML"),
        (b'{"error": "expired"}', "text"),
        (b"\0\x01\x02\x03", "00 01 02 03"),
        (b"RIFF\0\0\0\0WAVE", "52 49 46 46"),
    ],
)
def test_other_files(data: bytes, found: str) -> None:
    """The message says what it is and what was expected, so that the user need not guess."""
    with pytest.raises(UsageError, match=r"cat\.png is .*expected a PNG, JPEG or WebP") as caught:
        decode(data, pixels_max=PIXELS_MAX, what="cat.png")
    assert found in str(caught.value)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_truncated_files(name: str) -> None:
    """Are not shown half, wherever they end."""
    noise = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
    data = encoded(noise, name)
    assert decode(data, pixels_max=PIXELS_MAX).size == (64, 64)
    for end in (12, 20, 30, 40, len(data) // 10, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(UsageError, match="damaged"):
            decode(data[:end], pixels_max=PIXELS_MAX)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([PNG, JPEG, WEBP]), st.integers(8, 2000), st.binary(min_size=1, max_size=8))
def test_damaged_files(data: bytes, at: int, damage: bytes) -> None:
    """Whatever is overwritten: a picture or one of our errors, never one of Pillow's."""
    at %= len(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert decode(data[:at] + damage + data[at + len(damage) :], pixels_max=PIXELS_MAX).mode == "RGB"
        except PoorwillError:
            pass


@pytest.mark.parametrize("size", [(15, 100), (100, 15), (1, 1)])
def test_small_pictures(size: tuple[int, int]) -> None:
    """Sides below 16 pixels are a UsageError; 16 are enough."""
    with pytest.raises(UsageError, match=f"{size[0]} x {size[1]}"):
        decode(plain(size=size), pixels_max=PIXELS_MAX)
    assert decode(plain(size=(16, 16)), pixels_max=PIXELS_MAX).size == (16, 16)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_too_many_pixels(name: str) -> None:
    """One pixel over the limit is refused, the limit itself is not."""
    data = plain(name, size=(100, 100))
    assert decode(data, pixels_max=10_000).size == (100, 100)
    with pytest.raises(Refused, match="100 x 100 pixels, at most 9999"):
        decode(data, pixels_max=9_999)


@pytest.mark.parametrize("side", [10_000, 100_000, 2_000_000_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_declared_size(side: int) -> None:
    """Is enough to be refused, the pixels need not be there; also beyond Pillow's own limits."""
    with pytest.raises(Refused, match=r"too large|pixels"):
        decode(png(side, side), pixels_max=50_000_000)


@pytest.mark.filterwarnings("error")
def test_pillow_s_warning() -> None:
    """Where warnings are errors, Pillow's of a large picture is one of ours."""
    with pytest.raises(Refused):
        decode(png(10_000, 10_000), pixels_max=50_000_000)


_ZEROS = zlib.compress(bytes(32 << 20), 1)
_BOMBS = {
    "text": chunk(b"zTXt", b"Comment\0\0" + _ZEROS),
    "international": chunk(b"iTXt", b"Comment\0\x01\0\0\0" + _ZEROS),
    "profile": chunk(b"iCCP", b"profile\0\0" + _ZEROS),
}


@pytest.mark.parametrize("bomb", _BOMBS.values(), ids=_BOMBS.keys())
def test_bombs_beside_the_pixels(bomb: bytes) -> None:
    """32 MiB in 150 KiB of a PNG's text or colour profile: refused."""
    good = b"\0".join([b""] + [bytes(16)] * 16)
    assert decode(png(16, 16, pixels=good), pixels_max=PIXELS_MAX).size == (16, 16)
    with pytest.raises(UsageError, match="too large"):
        decode(png(16, 16, bomb, pixels=good), pixels_max=PIXELS_MAX)


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """144 megapixels in 17 KB, and 128 MiB of text in 600 KB: 64 MiB more than Pillow itself are plenty."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(128 << 20), 1))
    (tmp_path / "pixels").write_bytes(png(12_000, 12_000, pixels=bytes(17 << 20)))
    (tmp_path / "text").write_bytes(png(16, 16, text, pixels=bytes(17 * 16)))
    code = """
import resource, sys
from pathlib import Path
from poorwill.errors import PoorwillError
from poorwill.media.pictures import decode
from tests.unit.media.picture_files import plain
for name in ("PNG", "JPEG", "WEBP"):
    decode(plain(name), pixels_max=1000)
files = [Path(name).read_bytes() for name in sys.argv[1:]]
def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak_kib()
for data in files:
    try:
        decode(data, pixels_max=50_000_000)
    except PoorwillError as error:
        print(type(error).__name__)
print((peak_kib() - before) // 1024)
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, tmp_path / "pixels", tmp_path / "text"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
    )
    assert ran.returncode == 0, ran.stderr
    first, second, more_mib = ran.stdout.split()
    assert (first, second) == ("Refused", "UsageError")
    assert int(more_mib) < 64
