"""Records as JSON objects and back: whatever an object holds, the record is whole or the error names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.errors import Corrupt, UsageError
from poorwill.snapshot import fields
from poorwill.snapshot.fields import INLINE, Length, Range


@dataclass(frozen=True, slots=True)
class Piece:
    number: Annotated[int, Range(1, 10)]
    tag: Annotated[str, Length(3)] = ""


class Row(NamedTuple):
    name: bytes
    piece: Piece
    count_: int = 1


@dataclass(frozen=True, slots=True)
class Numbered(Piece):
    own: str = "kept here"


@dataclass(frozen=True, slots=True)
class Sent:
    name: bytes
    pieces: tuple[Piece, ...]
    sizes: Mapping[int, int]
    mode: Literal["stored", "full"] = "stored"
    ratio: float = 1.0
    first: Piece | None = None
    parent: str | None = None
    coding: Mapping[str, Any] | None = field(default_factory=dict)
    last: Piece = field(default=Piece(9), metadata=INLINE)


WHOLE = Sent(b"\xff", (Piece(1, "a"), Piece(2)), {7: 1 << 40}, "full", 0.5, Piece(3), "p", {"any": ["thing"]}, Piece(4))
OBJECT = {
    "name": "\udcff", "pieces": [{"number": 1, "tag": "a"}, {"number": 2, "tag": ""}], "sizes": {"7": 1 << 40},
    "mode": "full", "ratio": 0.5, "first": {"number": 3, "tag": ""}, "parent": "p", "coding": {"any": ["thing"]},
    "number": 4, "tag": "",
}  # fmt: skip


def test_a_record_and_its_object() -> None:
    """They say the same, also through JSON; optional fields that are None are left out, unknown ones ignored."""
    assert fields.write(WHOLE) == OBJECT
    assert fields.read(Sent, json.loads(json.dumps({**OBJECT, "unknown": 1})), "it") == WHOLE
    least = {"name": "n", "pieces": [], "sizes": {}, "number": 9}
    assert fields.read(Sent, least, "it") == Sent(b"n", (), {})
    assert fields.write(Sent(b"n", (), {}, coding=None)).keys() == OBJECT.keys() - {"first", "parent"}
    assert fields.read(Sent, {**least, "parent": None, "coding": None}, "it").coding is None
    assert fields.write(Numbered(1, "a"), Piece) == {"number": 1, "tag": "a"}


def test_a_tuple_with_names() -> None:
    """It is a record as well, not a list."""
    row, written = Row(b"n", Piece(1)), {"name": "n", "piece": {"number": 1, "tag": ""}, "count_": 1}
    assert fields.write(row) == written
    assert fields.read(Row, {"name": "n", "piece": {"number": 1}}, "it") == row
    with pytest.raises(Corrupt, match="field 'piece' is missing"):
        fields.read(Row, {"name": "n"}, "it")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": ...}, "field 'name' is missing"),
        ({"name": 1}, "field 'name' is 1, expected text"),
        ({"name": "\ud800"}, "field 'name' is .*, expected a file name"),
        ({"pieces": {}}, "field 'pieces' is {}, expected a list"),
        ({"pieces": [{"number": 1}, {}]}, r"field 'pieces\[1\].number' is missing"),
        ({"pieces": [{"number": 0}]}, r"field 'pieces\[0\].number' is 0, expected an integer from 1 to 10"),
        ({"pieces": [{"number": True}]}, "is True, expected an integer"),
        ({"pieces": [{"number": 1.0}]}, r"is 1\.0, expected an integer"),
        ({"pieces": [{"number": 1, "tag": "long"}]}, r"field 'pieces\[0\].tag' is 'long', expected at most 3"),
        ({"pieces": [7]}, r"field 'pieces\[0\]' is 7, expected an object"),
        ({"sizes": {"7": -1}}, f"field 'sizes.7' is -1, expected an integer from 0 to {(1 << 63) - 1}"),
        ({"sizes": {"7": 1 << 63}}, "field 'sizes.7' is .*, expected an integer"),
        ({"sizes": {"٧": 1}}, "field 'sizes' is '٧', expected numbers as names"),
        ({"sizes": {"x": 1}}, "expected numbers as names"),
        ({"mode": "sample"}, "field 'mode' is 'sample', expected one of stored, full"),
        ({"mode": ["full"]}, "expected one of"),
        ({"ratio": float("nan")}, "field 'ratio' is nan, expected a finite number"),
        ({"ratio": 10**400}, "expected a finite number"),
        ({"ratio": True}, "expected a finite number"),
        ({"first": {"number": "1"}}, "field 'first.number' is '1'"),
        ({"coding": []}, r"field 'coding' is \[\], expected an object"),
        ({"number": "4"}, "field 'number' is '4'"),
    ],
)
def test_what_does_not_fit(changed: dict[str, Any], message: str) -> None:
    """The message names the object, the field, what stands there and what should."""
    given = {name: value for name, value in {**OBJECT, **changed}.items() if value is not ...}
    with pytest.raises(Corrupt, match=f"^a/b: .*{message}"):
        fields.read(Sent, given, "a/b")


def test_another_error_and_other_values() -> None:
    """Who reads says which error it is; what is not an object at all is told, and shown in brief."""
    with pytest.raises(UsageError, match=r"^request: it is 'xxx.*', expected an object$") as caught:
        fields.read(Sent, "x" * 1_000_000, "request", UsageError)
    assert len(caught.value.message) < 100


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*OBJECT, "7"]), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*OBJECT, "?"]), JSON, max_size=8))
def test_any_object_is_a_record_or_corrupt(found: dict[str, Any]) -> None:
    """Nothing else is raised, and what was read can be written and read again."""
    try:
        record = fields.read(Sent, {**OBJECT, **found}, "it")
    except Corrupt as error:
        assert error.message.startswith("it: field '")
    else:
        assert fields.read(Sent, fields.write(record), "it") == record
