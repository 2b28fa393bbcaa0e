"""An image by its URL: on the web, in the URL itself, or in a bucket that was configured."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from PIL import Image

from poorwill.errors import Corrupt, Refused, UsageError
from poorwill.media.pictures import decode, format_of
from poorwill.store.base import Store
from poorwill.web.addresses import AllowRule
from poorwill.web.guarded_http import fetch
from poorwill.web.guarded_network import Resolve, system_addresses

BYTES_MAX = 20 << 20
PIXELS_MAX = 50_000_000
_HEADER_CHARS_MAX = 256  # of a data: URL, up to its comma
_IMAGE_TYPE = re.compile(r"image/[a-z0-9.+-]{1,60}")
_UNQUOTED_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket that users may name: keys that begin with `prefix/` (every key if it is ""), read through
    `store`, whose own keys are what follows."""

    name: str
    prefix: str
    store: Store

    def key(self, full: str) -> str | None:
        """The store's key for the bucket's key `full`, or None if that is not below the prefix."""
        folder = self.prefix.strip("/")
        if not folder:
            return full
        return full.removeprefix(folder + "/") if full.startswith(folder + "/") else None


@dataclass(frozen=True, slots=True)
class Sources:
    """Where images may come from, and how large they and how slow their servers may be."""

    allow: tuple[AllowRule, ...] = ()
    buckets: tuple[Bucket, ...] = ()
    bytes_max: int = BYTES_MAX
    pixels_max: int = PIXELS_MAX
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image as `pictures.decode` gives it, and what its file was.

    `width` and `height` are those of `image`, in pixels; `format` is PNG, JPEG or WEBP and `bytes` the size of
    the file. `origin` can be shown: it holds no query of a URL and no data.
    """

    image: Image.Image
    format: str
    width: int
    height: int
    bytes: int
    origin: str


def fetch_image(
    url: str, sources: Sources, *, resolve: Resolve = system_addresses, check: Callable[[], None] = lambda: None
) -> SourceImage:
    """The image at an `https:`, `http:`, `data:` or `s3://bucket/key` URL.

    `check` is called before and while bytes are awaited from the web, and once before a store is asked; what it
    raises ends the work. `resolve` is the web's, as in `guarded_http.fetch`. The timeouts of a store are its own.

    UsageError for other URLs and for files that are not pictures, Refused for too many bytes or pixels and for servers
    and buckets that may not be read; for the web the errors of `guarded_http.fetch`, for a bucket those of stores.
    """
    scheme = url[:20].partition(":")[0].lower()
    if scheme in ("http", "https"):
        fetched = fetch(
            url, bytes_max=sources.bytes_max, timeout_s=sources.timeout_s, allow=sources.allow, resolve=resolve,
            check=check,
        )  # fmt: skip
        data, origin = fetched.body, fetched.url
    elif scheme == "data":
        data, origin = _inline(url, sources.bytes_max)
    elif scheme == "s3":
        check()
        data, origin = _stored(url, sources)
    else:
        raise UsageError(f"not an image's URL: it begins {scheme!a}, expected https:, http:, data: or s3:")
    image = decode(data, pixels_max=sources.pixels_max, what=origin)
    return SourceImage(image, format_of(data) or "", image.width, image.height, len(data), origin)


def _stored(url: str, sources: Sources) -> tuple[bytes, str]:
    name, _, full = url[len("s3:") :].removeprefix("//").partition("/")
    for bucket in sources.buckets:
        key = bucket.key(full) if bucket.name == name else None
        if key is None:
            continue
        try:
            return bucket.store.get(key, bytes_max=sources.bytes_max), url
        except Corrupt as error:
            # Of a whole object, a store finds fault with its size alone.
            raise Refused(f"{url}: larger than {sources.bytes_max} bytes: use a smaller one") from error
    raise Refused(f"the bucket {name[:63]!a} may not be read, or not at this key: only configured ones may")


def _inline(url: str, bytes_max: int) -> tuple[bytes, str]:
    """RFC 2397: data:image/png;base64,<base64>, or percent-encoded without `;base64`."""
    if len(url) > 4 * bytes_max + _HEADER_CHARS_MAX:  # base64, every character of it percent-encoded
        raise _too_large(bytes_max)
    header, comma, _ = url[len("data:") : _HEADER_CHARS_MAX].partition(",")
    media_type, *parameters = header.lower().split(";")
    if not comma or not _IMAGE_TYPE.fullmatch(media_type):
        raise UsageError("not an image's data: URL: expected data:image/png;base64,... or another image/ type")
    try:
        payload = url[len("data:") + len(header) + 1 :].encode("ascii")
    except UnicodeEncodeError:
        raise UsageError(f"data:{media_type} holds characters outside ASCII: expected base64") from None
    data = _unquoted(payload)
    if parameters and parameters[-1].strip() == "base64":
        data = _from_base64(data, media_type, bytes_max)
    if len(data) > bytes_max:
        raise _too_large(bytes_max)
    return data, f"data:{media_type} ({len(data)} bytes)"


def _too_large(bytes_max: int) -> Refused:
    return Refused(f"the data: URL holds more than {bytes_max} bytes: use a smaller image, or a URL of the web")


def _unquoted(text: bytes) -> bytes:
    """Without percent-encoding. In slices, because the standard library makes an object of every escape."""
    data = bytearray()
    start = 0
    while start < len(text):
        end = start + _UNQUOTED_BYTES
        escape = text.rfind(b"%", end - 2, end)
        if escape != -1:  # it may go on in the next slice
            end = escape
        data += unquote_to_bytes(text[start:end])
        start = end
    return bytes(data)


def _from_base64(text: bytes, media_type: str, bytes_max: int) -> bytes:
    dense = text.translate(None, b" \t\r\n\f").rstrip(b"=")
    if len(dense) * 3 // 4 > bytes_max:
        raise _too_large(bytes_max)
    try:
        return base64.b64decode(dense + b"=" * (-len(dense) % 4), validate=True)
    except binascii.Error as error:
        raise UsageError(f"data:{media_type} is not base64: {error}") from None
