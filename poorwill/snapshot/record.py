"""Sealed documents as typed records: each one owns its fields, reads itself and writes itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from poorwill.errors import Corrupt
from poorwill.snapshot import documents, fields, ids, versions
from poorwill.snapshot.fields import INLINE
from poorwill.snapshot.keys import Owner

S = TypeVar("S", bound="SealedRecord")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A document, or an object in one. further: the fields that this version does not know, which are written again,
    behind the others."""

    further: Mapping[str, Any] = field(default_factory=dict, repr=False, metadata=INLINE)

    def document(self) -> dict[str, Any]:
        """The JSON object."""
        return fields.write(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRecord(Record):
    """A sealed document of the kind `KIND`."""

    KIND: ClassVar[str]

    def document(self) -> dict[str, Any]:
        """The document without its checksum, its fields in the order of the class."""
        return {"format": versions.written_format(self.KIND), **Record.document(self)}

    def seal(self) -> bytes:
        """The document's bytes, as they lie in a store."""
        return documents.seal(self.document())

    @classmethod
    def unseal(cls: type[S], data: bytes, key: str) -> S:
        """The record in `data`, an object that lies under `key`.

        Corrupt if it is damaged, of another kind, lacks a field, has one of another type or an impossible value, or
        belongs under another key; Unsupported for a version that is not read.
        """
        document = documents.unseal(data, cls.KIND, key)
        del document["format"]
        record = fields.read(cls, document, key)
        fault = record.fault(key)
        if fault is not None:
            raise Corrupt(f"{key}: {fault}")
        return record

    def fault(self, key: str) -> str | None:
        """What is wrong with values whose types fit, in an object under `key`; or None."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecord(SealedRecord):
    """A sealed document about one snapshot, under the key that `PLACE` gives for its machine and id."""

    PLACE: ClassVar[Callable[[str, str], str]]

    machine: str
    snapshot_id: str

    @property
    def owner(self) -> Owner:
        return self.machine, self.snapshot_id

    @property
    def key(self) -> str:
        return type(self).PLACE(*self.owner)

    def fault(self, key: str) -> str | None:
        if key == self.key and ids.is_machine_name(self.machine) and ids.is_snapshot_id(self.snapshot_id):
            return None
        return f"describes {self.machine[:80]!r}/{self.snapshot_id[:80]!r}"
