"""Sealed records of every kind: what is written is read, and what is not one of them is refused, with its key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.control.records.trash import Trashed
from poorwill.errors import Corrupt, Unsupported
from poorwill.snapshot.documents import seal
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.record import Record, SealedRecord, SnapshotRecord
from tests.support.documents import EVERY, METADATA

KINDS = sorted(EVERY)
REQUIRED = [
    (kind, field.name)
    for kind in KINDS
    for field in fields(EVERY[kind])
    if field.default is MISSING and field.default_factory is MISSING
]
NAMES = st.text(min_size=1, max_size=5)
ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | NAMES, lambda inner: st.lists(inner, max_size=2), max_leaves=4
)


def key_of(record: SealedRecord) -> str:
    return record.key if isinstance(record, SnapshotRecord) else f"intents/{record.document()['label']}.json"


def read(record: SealedRecord, document: Mapping[str, Any]) -> SealedRecord:
    """The document, sealed, as it would be read where that record lies."""
    return type(record).unseal(seal(dict(document)), key_of(record))


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type."""
    inner = get_args(hint)
    if get_origin(hint) is tuple:
        return st.lists(values(inner[0]), max_size=2).map(tuple)
    if get_origin(hint) is not None and NoneType not in inner:
        return st.dictionaries(NAMES, values(inner[1]), max_size=2)
    if inner:
        return st.none() | values(inner[0])
    if is_dataclass(hint):
        return records(hint)  # type: ignore[arg-type]
    if hasattr(hint, "_fields"):
        return st.builds(hint, **{name: values(kind) for name, kind in get_type_hints(hint).items()})
    simple = {int: st.integers(0, (1 << 63) - 1), str: NAMES, bool: st.booleans(), Any: ANY}
    return simple[hint]


def records(kind: type[Record], **fixed: Any) -> st.SearchStrategy[Any]:
    """Any record of a kind, with or without what it need not have, and with fields that this version does not know."""
    hints = get_type_hints(kind)
    given = {each.name: values(hints[each.name]) for each in fields(kind) if each.name not in {"further", *fixed}}
    further = st.dictionaries(NAMES.filter(lambda name: name not in {*hints, "format", "checksum"}), ANY, max_size=2)
    return st.builds(kind, **given, **{name: st.just(value) for name, value in fixed.items()}, further=further)


@given(st.data())
def test_what_is_written_is_read(data: st.DataObject) -> None:
    """The same record, and the same bytes again, further fields at every depth among them."""
    kind = data.draw(st.sampled_from(KINDS))
    fixed = {
        name: getattr(EVERY[kind], name)
        for name in ("machine", "snapshot_id", "manifest", "parts", "label", "price_per_hour")
        if hasattr(EVERY[kind], name)
    }
    record = data.draw(records(type(EVERY[kind]), **fixed))
    again = type(record).unseal(record.seal(), key_of(record))
    assert again == record and again.seal() == record.seal()


@given(records(Metadata, **{name: getattr(METADATA, name) for name in ("machine", "snapshot_id", "manifest", "parts")}))
def test_the_trash_keeps_all_of_it(metadata: Metadata) -> None:
    """What a snapshot's metadata said, it says again when it comes back, also what this version does not know."""
    trashed = Trashed.at(7, metadata)
    found = Trashed.unseal(trashed.seal(), trashed.key)
    assert found.trashed_at_s == 7 and found.metadata() == metadata


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_one(kind: str) -> None:
    """With all of its fields, in their order, and with fields that this version does not know."""
    record = EVERY[kind]
    document = record.document()
    assert document["format"] == f"poorwill-{kind}/1"
    known = [each.name for each in fields(record) if each.name != "further"]
    assert list(document) == ["format", *known] and json.loads(record.seal()).keys() == {*document, "checksum"}
    assert read(record, document) == record
    later = read(record, {**document, "later": {"a": [1]}})
    assert later.document() == {**document, "later": {"a": [1]}} and later != record


@pytest.mark.parametrize(("kind", "field"), REQUIRED)
def test_a_field_that_is_missing(kind: str, field: str) -> None:
    """Is named, with the object's key."""
    document = EVERY[kind].document()
    del document[field]
    with pytest.raises(Corrupt, match=f"^{key_of(EVERY[kind])}: field '{field}' is missing$"):
        read(EVERY[kind], document)


@pytest.mark.parametrize(("kind", "field"), REQUIRED)
def test_a_field_of_another_type(kind: str, field: str) -> None:
    """Is named, with what stands there and what should."""
    for other in (3, [[]], {"a": [None]}, True, -1, 1 << 63):
        try:
            read(EVERY[kind], {**EVERY[kind].document(), field: other})
        except Corrupt as error:
            assert error.message.startswith(f"{key_of(EVERY[kind])}: ") and len(error.message) < 300
            continue
        hint = get_type_hints(type(EVERY[kind]))[field]
        assert type(other) is hint or (get_origin(hint) is not None and isinstance(other, dict)), (field, other)


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_and_another_version(kind: str) -> None:
    """Unknown kinds, others' documents, and formats that say nothing are Corrupt; another version is Unsupported."""
    record = EVERY[kind]
    document, key = record.document(), key_of(record)
    others = [f"poorwill-{other}/1" for other in (*KINDS, "dream") if other != kind]
    malformed = [f"poorwill-{kind}", f"poorwill-{kind}/0", f"poorwill-{kind}/1.0", "1", 1, None, [], "x" * 999]
    for other in (*others, *malformed):
        with pytest.raises(Corrupt, match=f"^{key}: its format is .*, expected poorwill-{kind}$"):
            read(record, {**document, "format": other})
    with pytest.raises(Corrupt, match=f"^{key}: its format is None"):
        read(record, {name: value for name, value in document.items() if name != "format"})
    for version in ("2", "10", "999999999"):
        with pytest.raises(Unsupported, match=rf"^{key}: version {version} of the {kind} format.* a newer poorwill$"):
            read(record, {**document, "format": f"poorwill-{kind}/{version}", "machine": None})


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_lies_under_another_key(kind: str) -> None:
    """It describes something else than its key says."""
    record = EVERY[kind]
    with pytest.raises(Corrupt, match=r"^elsewhere\.json: (describes 'm'/|is of label)"):
        type(record).unseal(record.seal(), "elsewhere.json")
