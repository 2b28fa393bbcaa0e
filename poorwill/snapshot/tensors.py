"""Where the tensor data of a file begins, so that chunks are cut from there.

A header that grows by a few bytes then shifts no chunk. Only a hint: a wrong answer costs sharing between
snapshots, never correctness.
"""

from __future__ import annotations

import struct

HEAD_BYTES = 64
"""How much of a file's beginning `data_start` wants to see."""
_HEADER_BYTES_MAX = 100 << 20


def data_start(head: bytes, size: int) -> int:
    """Offset of the first tensor byte in a file of `size` bytes that begins with `head`; 0 if unknown."""
    start = _safetensors(head) or _npy(head)
    return start if 0 < start < size else 0


def _safetensors(head: bytes) -> int:
    # https://github.com/huggingface/safetensors: u64 header length, then a JSON object.
    if len(head) < 10 or head[8:9] != b"{":
        return 0
    length = int(struct.unpack_from("<Q", head)[0])
    return 8 + length if 2 <= length <= _HEADER_BYTES_MAX else 0


def _npy(head: bytes) -> int:
    # https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    if len(head) < 12 or head[:6] != b"\x93NUMPY":
        return 0
    if head[6] == 1:
        return 10 + int(struct.unpack_from("<H", head, 8)[0])
    return 12 + int(struct.unpack_from("<I", head, 8)[0])
