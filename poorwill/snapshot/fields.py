"""Dataclasses and NamedTuples as JSON objects: written as their annotations say, and read with every field checked.

A field may be a str, bool, int (from 0 to 2**63 - 1), float (finite), bytes (a file name, as the text that os.fsdecode
gives), Literal, Any, another such record, tuple[T, ...], Mapping[str, T] or Mapping[int, T], any of these or None,
and Annotated with a Range or a Length. What an object has beyond a class's fields is ignored when it is read, or kept
where the class has a place for it (INLINE).
"""

from __future__ import annotations

import dataclasses
import os
import reprlib
import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import MISSING, dataclass, is_dataclass
from functools import cache, partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from poorwill.errors import Corrupt, PoorwillError

T = TypeVar("T")
INLINE = {"inline": True}
"""Metadata of a field whose own fields stand among those of the record that has it: of a dataclass, or of a Mapping,
which then has all that the record does not name, and is written last."""
SPARSE = {"sparse": True}
"""Metadata of a field that is left out where it is empty."""
_INTEGER_MAX = (1 << 63) - 1
_FLOAT_MAX = sys.float_info.max
_KEY_DIGITS_MAX = 12


@dataclass(frozen=True, slots=True)
class Range:
    """Annotated[int, Range(low, high)]: what the number may be, both ends included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Length:
    """Annotated[T, Length(most)]: how many characters or items a str, tuple or Mapping may have."""

    most: int


def write(record: Any, kind: type | None = None) -> dict[str, Any]:
    """The record as a JSON object; a field that is None, and has None as its default, is left out. kind: a class that
    the record inherits from; then the object has only that one's fields."""
    written: dict[str, Any] = {}
    for field in _fields_of(kind or type(record)):
        value = getattr(record, field.name)
        plain = _plain(value, field.hint)
        if field.inline:
            written.update(plain)
        elif (value is not None or field.default is not None) and (value or not field.sparse):
            written[field.name] = plain
    return written


def _plain(value: Any, hint: Any = None) -> Any:
    if _is_record(value):
        return write(value, hint if is_dataclass(hint) else None)  # type: ignore[arg-type]
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return os.fsdecode(value) if isinstance(value, bytes) else value


def read(kind: type[T], found: object, what: str, error: type[PoorwillError] = Corrupt) -> T:
    """The record that a JSON value describes, all of it. `error`, which names the field, if it does not fit.

    what: the object that it was found in, for the message. Raises what the class itself raises when it is made, too.
    """
    reader = _reader(cast(Any, kind))
    try:
        record: T = reader(found)
    except _Misfit as misfit:
        raise error(f"{what}: {misfit}") from None
    return record


class _Misfit(Exception):
    def __init__(self, problem: str) -> None:
        self.problem, self.path = problem, ""

    @classmethod
    def of(cls, found: object, expected: str) -> _Misfit:
        return cls(f"is {reprlib.repr(found)}, expected {expected}")

    def below(self, name: str) -> _Misfit:
        self.path = name + ("." if self.path and self.path[0] != "[" else "") + self.path
        return self

    def __str__(self) -> str:
        return f"field '{self.path}' {self.problem}" if self.path else f"it {self.problem}"


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    hint: Any
    default: Any
    required: bool
    inline: bool
    sparse: bool
    read: Callable[[object], Any]


@cache
def _fields_of(kind: type) -> tuple[_Field, ...]:
    hints = get_type_hints(kind, include_extras=True)
    declared: list[Any] = list(dataclasses.fields(kind)) if is_dataclass(kind) else _of_tuple(kind)
    names = frozenset(field.name for field in declared)
    found = []
    for field in declared:
        hint, inline = hints[field.name], "inline" in field.metadata
        read = partial(_others, names) if inline and not is_dataclass(hint) else _reader(hint)
        required = field.default is MISSING and field.default_factory is MISSING
        found.append(_Field(field.name, hint, field.default, required, inline, "sparse" in field.metadata, read))
    return tuple(sorted(found, key=lambda field: field.inline and not is_dataclass(field.hint)))


def _of_tuple(kind: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a NamedTuple as those of a dataclass."""
    found = []
    for name in kind._fields:
        found.append(dataclasses.field(default=kind._field_defaults.get(name, MISSING)))
        found[-1].name = name
    return found


def _is_record(kind: object) -> bool:
    return is_dataclass(kind) or hasattr(kind, "_fields")


@cache
def _reader(hint: Any) -> Callable[[object], Any]:
    origin, given = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda found: found
    if hint is int:
        return partial(_integer, Range(0, _INTEGER_MAX))
    if hint is float:
        return _float
    if hint is bytes:
        return _file_name
    if _is_record(hint):
        return partial(_record, cast(type, hint))
    if origin is Literal:
        return partial(_one_of, given)
    if origin is tuple:
        return partial(_items, _reader(given[0]))
    if origin in (dict, Mapping):
        return partial(_entries, given[0], _reader(given[1]))
    if origin in (Union, UnionType):
        some = _reader(next(kind for kind in given if kind is not NoneType))
        return lambda found: None if found is None else some(found)
    if origin is Annotated:
        bound = given[1]
        return partial(_integer, bound) if isinstance(bound, Range) else partial(_bounded, _reader(given[0]), bound)
    return partial(_exactly, hint)


def _record(kind: type, found: object) -> Any:
    if not isinstance(found, dict):
        raise _Misfit.of(found, "an object")
    given: dict[str, Any] = {}
    for field in _fields_of(kind):
        if field.inline:
            given[field.name] = field.read(found)
        elif field.name in found:
            try:
                given[field.name] = field.read(found[field.name])
            except _Misfit as misfit:
                raise misfit.below(field.name) from None
        elif field.required:
            raise _Misfit("is missing").below(field.name)
    return kind(**given)


def _others(names: Set[str], found: dict[str, Any]) -> dict[str, Any]:
    return {} if found.keys() <= names else {name: found[name] for name in found if name not in names}


def _one_of(choices: tuple[Any, ...], found: object) -> object:
    if not isinstance(found, str) or found not in choices:
        raise _Misfit.of(found, f"one of {', '.join(choices)}")
    return found


def _items(item: Callable[[object], Any], found: object) -> tuple[Any, ...]:
    if not isinstance(found, list):
        raise _Misfit.of(found, "a list")
    read = []
    for number, value in enumerate(found):
        try:
            read.append(item(value))
        except _Misfit as misfit:
            raise misfit.below(f"[{number}]") from None
    return tuple(read)


def _entries(key: type, value: Callable[[object], Any], found: object) -> dict[Any, Any]:
    if not isinstance(found, dict):
        raise _Misfit.of(found, "an object")
    read: dict[Any, Any] = {}
    for name, each in found.items():
        if key is int and not (name.isascii() and name.isdecimal() and len(name) <= _KEY_DIGITS_MAX):
            raise _Misfit.of(name, "numbers as names")
        try:
            read[key(name)] = value(each)
        except _Misfit as misfit:
            raise misfit.below(name[:_KEY_DIGITS_MAX]) from None
    return read


def _bounded(value: Callable[[object], Any], length: Length, found: object) -> Any:
    read = value(found)
    if len(read) > length.most:
        raise _Misfit.of(found, f"at most {length.most} characters or items")
    return read


def _integer(bounds: Range, found: object) -> int:
    if type(found) is not int or not bounds.low <= found <= bounds.high:
        raise _Misfit.of(found, f"an integer from {bounds.low} to {bounds.high}")
    return found


def _float(found: object) -> float:
    if not isinstance(found, (int, float)) or type(found) is bool or not -_FLOAT_MAX <= found <= _FLOAT_MAX:
        raise _Misfit.of(found, "a finite number")
    return float(found)


def _file_name(found: object) -> bytes:
    try:
        return os.fsencode(_exactly(str, found))
    except UnicodeEncodeError:
        raise _Misfit.of(found, "a file name") from None


def _exactly(kind: type, found: object) -> Any:
    if type(found) is not kind:
        raise _Misfit.of(found, {str: "text", bool: "true or false", NoneType: "null"}[kind])
    return found
