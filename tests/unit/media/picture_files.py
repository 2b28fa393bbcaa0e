"""Files of pictures, good ones and malicious ones."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(picture: Image.Image, name: str, **options: Any) -> bytes:
    """The picture as a file of the format `name`."""
    file = io.BytesIO()
    picture.save(file, name, **options)
    return file.getvalue()


def plain(name: str = "PNG", size: tuple[int, int] = (32, 24), color: Any = (200, 30, 60), **options: Any) -> bytes:
    """A picture of one colour."""
    return encoded(Image.new("RGB", size, color), name, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, pixels: bytes = b"") -> bytes:
    """A grey PNG file that declares this size, whatever its `pixels` are, with `extra` chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return PNG_SIGNATURE + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")
