"""Extended attributes of one entry as bytes: name length u16, value length u32, name, value; by name."""

from __future__ import annotations

import struct

from poorwill.errors import Corrupt

_HEAD = struct.Struct("<HI")


def encoded(attributes: dict[bytes, bytes]) -> bytes:
    return b"".join(_HEAD.pack(len(k), len(v)) + k + v for k, v in sorted(attributes.items()))


def decoded(data: bytes) -> dict[bytes, bytes]:
    """Corrupt if the lengths do not add up or a name is empty, repeated, or holds a NUL."""
    out: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise Corrupt("manifest: an xattr set ends inside a header")
        name_bytes, value_bytes = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        end = at + name_bytes + value_bytes
        if end > len(data):
            raise Corrupt("manifest: an xattr set ends inside an attribute")
        name = data[at : at + name_bytes]
        if not name or b"\0" in name or name_bytes > 255 or name in out:
            raise Corrupt(f"manifest: xattr name {name!r} is not allowed")
        out[name] = data[at + name_bytes : end]
        at = end
    return out
