"""What it is to ask: a request of the control side or a question of the engine, and the class of its answer.

Whoever gets a message reads it with `poorwill.snapshot.fields`, every field checked: neither end trusts the other.
docs/engine-protocol.md describes them all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Generic, Protocol, TypeVar, get_args

from poorwill.snapshot import limits
from poorwill.snapshot.fields import Length, Range

A = TypeVar("A")
PIECES_ASKED_MAX = 64
GPUS_MAX = 64
TEXT_MAX = 500
Text = Annotated[str, Length(TEXT_MAX)]
PartNumber = Annotated[int, Range(0, limits.PART_NUMBER_MAX)]
PartRow = Annotated[int, Range(0, limits.PARTS_MAX)]
PartBytes = Annotated[int, Range(0, limits.PART_BYTES_MAX)]
PlannedParts = Annotated[Mapping[int, PartBytes], Length(limits.PART_NUMBER_MAX + 1)]
"""Raw bytes by part number."""


class Request(Generic[A]):
    """What an engine is asked for; A is the class of its answer."""

    __slots__ = ()

    @property
    def op(self) -> str:
        return name_of(type(self))


class Question(Generic[A]):
    """What an engine asks while it works on a request; A is the class of the answer."""

    __slots__ = ()

    @property
    def name(self) -> str:
        return name_of(type(self))


class Ask(Protocol):
    """Asks the control side."""

    def __call__(self, question: Question[A]) -> A:
        """The answer, or the error that it is answered with."""


def name_of(kind: type[Any]) -> str:
    """By which lines name a request or a question: `OpenRestore` is `open_restore`."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def answer_to(asked: type[Request[A]] | type[Question[A]]) -> type[A]:
    """The class of the answer."""
    (base,) = asked.__orig_bases__  # type: ignore[union-attr]
    kind: type[A] = get_args(base)[0]
    return kind
