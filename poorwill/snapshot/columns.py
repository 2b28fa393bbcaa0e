"""Columnar tables: a row is an index into equally long numpy arrays.

A table is a dataclass whose fields are columns: arrays of little-endian integers or of digests, or `Blobs` (byte
strings of any length). Three hundred thousand files are a few arrays this way instead of a few hundred megabytes of
objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, TypeVar, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from poorwill.errors import Corrupt

Array = npt.NDArray[Any]
T = TypeVar("T", bound="Table")


class Blobs:
    """A sequence of byte strings in one buffer. `ends[i]` is where string i ends; int64, non-decreasing."""

    __slots__ = ("data", "ends")

    def __init__(self, data: bytes = b"", ends: Array | None = None) -> None:
        self.data = data
        self.ends = np.zeros(0, np.int64) if ends is None else ends

    @classmethod
    def of(cls, items: Sequence[bytes]) -> Blobs:
        return cls.from_lengths(np.fromiter(map(len, items), np.int64, len(items)), b"".join(items))

    @classmethod
    def from_lengths(cls, lengths: Array, data: bytes) -> Blobs:
        return cls(data, np.cumsum(lengths, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> bytes:
        return self.data[int(self.ends[i - 1]) if i else 0 : int(self.ends[i])]

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        for end in self.ends.tolist():
            yield self.data[start:end]
            start = end

    def lengths(self) -> Array:
        return np.diff(self.ends, prepend=0)

    def slice(self, start: int, stop: int) -> Blobs:
        base = int(self.ends[start - 1]) if start else 0
        end = int(self.ends[stop - 1]) if stop else 0
        return Blobs(self.data[base:end], self.ends[start:stop] - base)

    def take(self, rows: Array) -> Blobs:
        """The strings at `rows`, in that order."""
        starts = np.concatenate([np.zeros(1, np.int64), self.ends])
        data = self.data
        pairs = zip(starts[rows].tolist(), self.ends[rows].tolist(), strict=True)
        return Blobs.of([data[a:b] for a, b in pairs])


@dataclass(frozen=True, slots=True)
class Column:
    """How a column is stored: as NumPy's `dtype`, or, without one, as byte strings of at most `bytes_max`."""

    dtype: str = ""
    bytes_max: int = 0
    name: str = ""

    @property
    def width(self) -> int:
        """Bytes per row; 0 for byte strings, whose lengths are u32."""
        return np.dtype(self.dtype).itemsize if self.dtype else 0


UInt8 = Annotated[Array, Column("u1")]
UInt16 = Annotated[Array, Column("<u2")]
UInt32 = Annotated[Array, Column("<u4")]
UInt64 = Annotated[Array, Column("<u8")]
Int64 = Annotated[Array, Column("<i8")]
Digest = Annotated[Array, Column("32u1")]


@dataclass(slots=True)
class Table:
    """Base of all tables: a subclass declares its columns in their order, each as a type annotated with a Column."""

    SCHEMA: ClassVar[tuple[Column, ...]] = ()

    def __init_subclass__(cls) -> None:
        if not cls.SCHEMA:  # a dataclass with slots is made a second time, from what the first one has
            hints = get_type_hints(cls, include_extras=True).items()
            cls.SCHEMA = tuple(replace(t.__metadata__[0], name=name) for name, t in hints if get_origin(t) is Annotated)

    def __len__(self) -> int:
        return len(getattr(self, self.SCHEMA[0].name))

    @classmethod
    def row_bytes_max(cls) -> int:
        """The most bytes one row can take in a page."""
        return sum(c.width or 4 + c.bytes_max for c in cls.SCHEMA)

    @classmethod
    def zeros(cls: type[T], rows: int = 0) -> T:
        """A table of rows to be filled in; one with byte strings has none."""
        return cls(*[Blobs() if not c.width else _zeros(c, rows) for c in cls.SCHEMA])

    def take(self: T, rows: Array) -> T:
        """The rows at those indexes, in that order."""
        columns = [getattr(self, column.name) for column in self.SCHEMA]
        return type(self)(*[c.take(rows) if isinstance(c, Blobs) else c[rows] for c in columns])

    @classmethod
    def joined(cls: type[T], tables: list[T]) -> T:
        """All rows of all tables, in order."""
        out: list[Any] = []
        for column in cls.SCHEMA:
            parts = [getattr(t, column.name) for t in tables]
            if column.width:
                out.append(np.concatenate(parts) if parts else _zeros(column, 0))
            else:
                lengths = [p.lengths() for p in parts] or [np.zeros(0, np.int64)]
                out.append(Blobs.from_lengths(np.concatenate(lengths), b"".join(p.data for p in parts)))
        return cls(*out)

    def equals(self: T, other: T, columns: Iterable[str] | None = None) -> bool:
        """Whether both have the same rows, in all columns or in those."""
        names = [column.name for column in self.SCHEMA] if columns is None else columns
        return all(_same(getattr(self, name), getattr(other, name)) for name in names)

    def pack(self, start: int, stop: int) -> bytes:
        """Rows [start, stop) as a page's raw bytes: column after column, integers byte-transposed.

        Byte-transposed: all first (lowest) bytes of the rows, then all second bytes, and so on; equal
        high bytes then lie together and compress to nothing.
        """
        out: list[bytes] = []
        for column in self.SCHEMA:
            values = getattr(self, column.name)
            if column.width:
                out.append(_transposed(values[start:stop], column.width))
            else:
                cut = values.slice(start, stop)
                out.append(_transposed(cut.lengths().astype("<u4"), 4))
                out.append(cut.data)
        return b"".join(out)

    @classmethod
    def unpack(cls: type[T], page: bytes, rows: int, what: str) -> T:
        """The inverse of `pack`. Corrupt if `page` does not hold exactly `rows` rows."""
        at, out = 0, list[Any]()

        def cut(count: int) -> memoryview:
            nonlocal at
            if at + count > len(page):
                raise Corrupt(f"{what}: a page of {rows} rows ends after {len(page)} bytes, too early")
            at += count
            return memoryview(page)[at - count : at]

        for column in cls.SCHEMA:
            width = column.width or 4
            planes = np.frombuffer(cut(rows * width), np.uint8).reshape(width, rows)
            values = np.ascontiguousarray(planes.T)
            if column.dtype == "32u1":
                out.append(values)
            elif column.width:
                out.append(values.reshape(-1).view(column.dtype))
            else:
                lengths = values.reshape(-1).view("<u4")
                if rows and int(lengths.max()) > column.bytes_max:
                    raise Corrupt(f"{what}: '{column.name}' of {int(lengths.max())} bytes, at most {column.bytes_max}")
                out.append(Blobs.from_lengths(lengths, bytes(cut(int(lengths.sum(dtype=np.int64))))))
        if at != len(page):
            raise Corrupt(f"{what}: a page of {rows} rows has {len(page)} bytes, expected {at}")
        return cls(*out)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Blobs):
        return np.array_equal(ours.ends, theirs.ends) and bool(ours.data == theirs.data)
    return np.array_equal(ours, theirs)


def _zeros(column: Column, rows: int) -> Array:
    return np.zeros((rows, 32), np.uint8) if column.dtype == "32u1" else np.zeros(rows, column.dtype)


def _transposed(values: Array, width: int) -> bytes:
    return bytes(np.ascontiguousarray(values).view(np.uint8).reshape(-1, width).T.tobytes())
