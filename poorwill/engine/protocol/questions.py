"""What an engine asks while it works on a request, and what is answered to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from poorwill.engine.protocol.asking import PIECES_ASKED_MAX, PartNumber, Question, name_of
from poorwill.errors import Corrupt, Refused
from poorwill.snapshot import fields, limits
from poorwill.snapshot.fields import Length, Range
from poorwill.store.base import Grant


@dataclass(frozen=True, slots=True)
class UploadGrant:
    """An upload that was begun: by pieces of that size, or as a file under that path."""

    piece_bytes: Annotated[int, Range(1, limits.PART_BYTES_MAX)] | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if (self.piece_bytes is None) == (self.path is None):
            raise Corrupt("an upload is granted by the size of its pieces, or by a path")


@dataclass(frozen=True, slots=True)
class PieceUrls:
    """A URL for each piece, good for one PUT."""

    urls: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Read(Question[Grant]):
    """Leave to read an object."""

    key: str


@dataclass(frozen=True, slots=True)
class Upload(Question[UploadGrant]):
    """A new upload of a part; the one before is dropped."""

    part: PartNumber


@dataclass(frozen=True, slots=True)
class Pieces(Question[PieceUrls]):
    """URLs for pieces of a part's upload."""

    part: PartNumber
    numbers: Annotated[tuple[int, ...], Length(PIECES_ASKED_MAX)]


_KINDS: tuple[type[Question[Any]], ...] = (Read, Upload, Pieces)
QUESTIONS = {name_of(kind): kind for kind in _KINDS}


def read_question(name: str, facts: object) -> Question[Any]:
    """The question of an event. Refused if there is no such question, Corrupt if a field does not fit."""
    if name not in QUESTIONS:
        raise Refused(f"the engine asked for '{name[:80]}', which is not part of its work")
    return fields.read(QUESTIONS[name], facts, f"question '{name}' of the engine")
