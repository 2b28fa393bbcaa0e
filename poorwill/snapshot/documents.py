"""Sealed JSON documents: readable by people, and safe against a flipped bit.

`seal` adds a `checksum`: BLAKE3-256 over the document without it, serialized with sorted keys, no spaces and
ASCII escapes. Documents hold no floats, so that every JSON library serializes them alike.
"""

from __future__ import annotations

import json
from typing import Any

import blake3

from poorwill.errors import Corrupt
from poorwill.snapshot import limits, versions

Document = dict[str, Any]


def _checksum(document: Document) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "blake3:" + blake3.blake3(canonical.encode()).hexdigest()


def _no_floats(value: Any, where: str) -> None:
    if isinstance(value, float):
        raise TypeError(f"a sealed document holds no floats: {where}")
    if isinstance(value, dict):
        for key, inner in value.items():
            _no_floats(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _no_floats(inner, where)


def seal(document: Document) -> bytes:
    """The document's bytes with its checksum."""
    _no_floats(document, "document")
    body = {k: v for k, v in document.items() if k != "checksum"}
    return json.dumps({**body, "checksum": _checksum(body)}, indent=1, ensure_ascii=True).encode() + b"\n"


def parsed(data: bytes, what: str) -> Document:
    """The JSON object in `data`, which may be anything; `what` names it in errors. Corrupt."""
    if len(data) > limits.DOCUMENT_BYTES_MAX:
        raise Corrupt(f"{what}: {len(data)} bytes, expected at most {limits.DOCUMENT_BYTES_MAX}")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{what}: not a JSON document: {error}") from None
    if not isinstance(document, dict):
        raise Corrupt(f"{what}: not a JSON object")
    return document


def unseal(data: bytes, kind: str, what: str) -> Document:
    """The document in `data`, which must be of `kind`; `SealedRecord.unseal` checks its fields as well. Corrupt if it
    is not JSON, of another kind, or its checksum differs; Unsupported for a version that is not read."""
    document = parsed(data, what)
    expected = document.pop("checksum", None)
    try:
        found = _checksum(document)
    except RecursionError:
        raise Corrupt(f"{what}: not a JSON document: it is nested too deeply") from None
    if found != expected:
        raise Corrupt(f"{what}: its checksum is {found}, expected {expected!r}")
    versions.check_format(document.get("format"), kind, what)
    return document
