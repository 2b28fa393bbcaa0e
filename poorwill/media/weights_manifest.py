"""weights.json: which files the weights of a model are. Written last, so that whoever reads it finds them all.

    {"format": "poorwill-weights/1",
     "files": [{"path": "vae/config.json", "size": 811, "blake3": "<64 hexadecimal digits>"}, ...]}

Paths are relative, their components separated by "/", in the order of their UTF-8 bytes. What a store answers may be
anything: sizes and counts are bounded, and no path leads out of the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import blake3

from poorwill.errors import Corrupt
from poorwill.snapshot import documents, fields, versions
from poorwill.snapshot.fields import Length, Range
from poorwill.snapshot.record import Record
from poorwill.store.object_key import key_fault

NAME = "weights.json"
BYTES_MAX = 8 << 20
FILES_MAX = 10_000
FILE_BYTES_MAX = 1 << 40
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class WeightsFile(Record):
    """One file: its path below the folder, its size in bytes and its BLAKE3 in hexadecimal digits."""

    path: str
    size: Annotated[int, Range(0, FILE_BYTES_MAX)]
    blake3: str


@dataclass(frozen=True, slots=True)
class WeightsManifest:
    """All files of a folder of weights."""

    files: Annotated[tuple[WeightsFile, ...], Length(FILES_MAX)]

    def encode(self) -> bytes:
        """The document; the same bytes for the same files."""
        document = {"format": versions.written_format("weights"), **fields.write(self)}
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes, what: str) -> WeightsManifest:
        """The manifest in `data`; `what` is its place, for messages.

        Corrupt for anything but a manifest whose files can lie in one folder; Unsupported for a later version.
        """
        document = documents.parsed(data, what)
        versions.check_format(document.get("format"), "weights", what)
        manifest = fields.read(cls, document, what)
        for fault in (*map(_fault, manifest.files), *_place_faults([file.path for file in manifest.files])):
            if fault is not None:
                raise Corrupt(f"{what}: {fault}")
        return manifest


def digest_of(data: bytes) -> str:
    """What names a manifest, and the folder of its files: the BLAKE3 of its bytes, 64 hexadecimal digits."""
    return blake3.blake3(data).hexdigest()


def path_fault(path: str) -> str | None:
    """What is wrong with a path of a file of weights, in words, or None."""
    if "\\" in path:
        return "it has a backslash"
    if path == NAME:
        return "it is the name of the manifest"
    return key_fault(path)


def _fault(file: WeightsFile) -> str | None:
    if (fault := path_fault(file.path)) is not None:
        return f"it names a file {file.path[:120]!a}: {fault}"
    if file.further or _DIGEST.fullmatch(file.blake3) is None:
        return f"not the path, size and blake3 of a file alone: {repr(file.document())[:120]!a}"
    return None


def _place_faults(paths: list[str]) -> Iterator[str]:
    """Whether two files have one place: the same path, or the one's path is a folder of the other's."""
    known = set(paths)
    if not known:
        yield "it names no file"
    if len(known) < len(paths):
        yield "it names a file twice"
    for path in paths:
        folder = path
        while folder := folder.rpartition("/")[0]:
            if folder in known:
                yield f"it names {folder[:120]!a} as a file and as a folder"
