"""Pictures that users send: from hostile bytes to RGB pixels.

Pillow is told the one format that the first bytes name, and asked for the size before it takes memory for
it. Its own limits hold as well: 1 MiB for what a PNG's text or colour profile decompresses to, and, whatever
is asked for here, twice `PIL.Image.MAX_IMAGE_PIXELS` for a picture.
"""

from __future__ import annotations

import io

from PIL import ExifTags, Image, UnidentifiedImageError

from poorwill.errors import PoorwillError, Refused, UsageError

SIDE_MIN = 16
_EXPECTED = "expected a PNG, JPEG or WebP picture"
_OTHER_FORMATS = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
)
_UPRIGHT = {  # by what EXIF calls the orientation, TIFF 6.0 tag 274
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def format_of(data: bytes) -> str | None:
    """Pillow's name of the format that the first bytes promise: PNG, JPEG or WEBP; None if it is another."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def decode(data: bytes, *, pixels_max: int, what: str = "the image") -> Image.Image:
    """The picture in `data`, upright, in mode RGB, with nothing of the file left (no EXIF, no colour profile).

    Transparent parts are laid on white. Of an animation, the first frame. Colours count as sRGB: a profile is
    dropped, not applied. 16-bit samples become 8-bit ones. Takes up to 16 bytes of memory a pixel meanwhile.

    UsageError, with what was found, for anything but a whole PNG, JPEG or WebP file of at least 16 pixels a
    side; Refused for more than `pixels_max` pixels. `what` names the image in messages.
    """
    name = format_of(data)
    if name is None:
        raise UsageError(f"{what} is {_found(data)}, {_EXPECTED}")
    try:
        with Image.open(io.BytesIO(data), formats=(name,)) as picture:
            _check_size(picture, pixels_max, what)
            picture.load()  # now, so that no error of the pixels is taken for one of EXIF data
            flat = _on_white(_upright(picture))
    except (PoorwillError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(f"{what} is too large: {error}") from error
    except UnidentifiedImageError as error:
        raise UsageError(f"{what} is a damaged {name} file: its header cannot be read; {_EXPECTED}") from error
    except Exception as error:
        # Pillow promises no set of errors for damaged files: OSError, SyntaxError, ValueError, EOFError, ...
        raise UsageError(f"{what} is a damaged {name} file: {str(error)[:200]}; {_EXPECTED}") from error
    flat.info.clear()
    return flat


def _check_size(picture: Image.Image, pixels_max: int, what: str) -> None:
    width, height = picture.size
    if width * height > pixels_max:
        raise Refused(f"{what} has {width} x {height} pixels, at most {pixels_max} are possible: use a smaller one")
    if min(width, height) < SIDE_MIN:
        raise UsageError(f"{what} has {width} x {height} pixels, expected at least {SIDE_MIN} x {SIDE_MIN}")


def _upright(picture: Image.Image) -> Image.Image:
    """Not ImageOps.exif_transpose: it writes the EXIF data anew, which fails for many that can be read."""
    try:
        turn = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        # Pillow promises no set of errors for damaged EXIF data, and the picture is good without.
        return picture
    return picture if turn is None else picture.transpose(turn)


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # Pillow cuts 16-bit greys off at 255, which makes almost all of them white.
        return picture.convert("I").point(lambda grey: grey * (1 / 257) + 0.5).convert("L").convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(layer, mask=layer)
    return ground


def _found(data: bytes) -> str:
    """What the bytes seem to be, for a message."""
    if not data:
        return "empty"
    for magic, name in _OTHER_FORMATS:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return f"a file of the type {data[8:12].decode('latin-1').strip()!a}"  # heic, avif, mp42, ...
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if all(byte >= 0x20 or byte in b"\t\r\n\f" for byte in start):
        return "text"
    return f"of an unknown format (it begins {data[:8].hex(' ')})"
