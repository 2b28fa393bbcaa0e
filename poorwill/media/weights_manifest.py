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
from dataclasses import asdict, dataclass
from typing import Any

import blake3

from poorwill.errors import Corrupt
from poorwill.snapshot import versions
from poorwill.store.object_key import key_fault

NAME = "weights.json"
BYTES_MAX = 8 << 20
FILES_MAX = 10_000
FILE_BYTES_MAX = 1 << 40
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file: its path below the folder, its size in bytes and its BLAKE3 in hexadecimal digits."""

    path: str
    size: int
    blake3: str


@dataclass(frozen=True, slots=True)
class WeightsManifest:
    """All files of a folder of weights."""

    files: tuple[WeightsFile, ...]

    def encode(self) -> bytes:
        """The document; the same bytes for the same files."""
        document = {"format": versions.written_format("weights"), "files": [asdict(file) for file in self.files]}
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes, what: str) -> WeightsManifest:
        """The manifest in `data`; `what` is its place, for messages.

        Corrupt for anything but a manifest whose files can lie in one folder; Unsupported for a later version.
        """
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Corrupt(f"{what}: not a JSON document: {error}") from None
        if not isinstance(document, dict):
            raise Corrupt(f"{what}: not a JSON object")
        versions.check_format(document.get("format"), "weights", what)
        entries = document.get("files")
        if not isinstance(entries, list) or not 0 < len(entries) <= FILES_MAX:
            raise Corrupt(f"{what}: field 'files' is not a list of 1 to {FILES_MAX} files")
        files = tuple(_file(entry, what) for entry in entries)
        for fault in _place_faults([file.path for file in files]):
            raise Corrupt(f"{what}: {fault}")
        return cls(files)


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


def _file(entry: Any, what: str) -> WeightsFile:
    match entry:
        case {"path": str(path), "size": int(size), "blake3": str(digest), **rest} if (
            not rest and not isinstance(size, bool) and 0 <= size <= FILE_BYTES_MAX and _DIGEST.fullmatch(digest)
        ):
            if (fault := path_fault(path)) is not None:
                raise Corrupt(f"{what}: it names a file {path[:120]!a}: {fault}")
            return WeightsFile(path, size, digest)
    raise Corrupt(f"{what}: not the path, size and blake3 of a file: {repr(entry)[:120]!a}")


def _place_faults(paths: list[str]) -> Iterator[str]:
    """Whether two files have one place: the same path, or the one's path is a folder of the other's."""
    known = set(paths)
    if len(known) < len(paths):
        yield "it names a file twice"
    for path in paths:
        folder = path
        while folder := folder.rpartition("/")[0]:
            if folder in known:
                yield f"it names {folder[:120]!a} as a file and as a folder"
