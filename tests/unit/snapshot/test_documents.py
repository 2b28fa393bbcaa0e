"""Sealed JSON documents: what was sealed comes back, and nothing else gets past."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.control.records import catalog
from poorwill.control.snapshot import needs
from poorwill.errors import Corrupt, PoorwillError, Unsupported
from poorwill.snapshot import limits
from poorwill.snapshot.documents import seal, unseal
from poorwill.snapshot.metadata import Metadata
from tests.support.documents import METADATA, SNAPSHOT_ID

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=8,
)
DOCUMENT = METADATA.document()
OPTIONAL = ("name", "tags", "converted_from", "coding", "committed_at_ms", "allow_shrink", "surroundings")
PATHS = [(key,) for key in DOCUMENT if key not in ("format", *OPTIONAL)] + [
    ("tool", "name"), ("manifest", "key"), ("manifest", "bytes"), ("manifest", "blake3"), ("parts", 0),
    ("parts", 0, "key"), ("parts", 0, "bytes"), ("totals", "raw_bytes"), ("left_out", 0), ("left_out", 0, "path"),
]  # fmt: skip


def read(document: dict[str, Any]) -> Metadata:
    return Metadata.unseal(seal(document), METADATA.key)


@given(st.dictionaries(st.text(max_size=5).filter(lambda k: k not in ("checksum", "format")), JSON, max_size=5))
def test_what_is_sealed_comes_back(body: dict[str, Any]) -> None:
    """Any JSON without floats, also under keys that are not ASCII."""
    document = {**body, "format": "poorwill-removing/1"}
    assert unseal(seal(document), "removing", "d") == document


def test_metadata_comes_back() -> None:
    """A whole one, with a field that this version does not know."""
    assert read(DOCUMENT) == METADATA and METADATA.seal() == seal(DOCUMENT)
    assert read({**DOCUMENT, "later": [1]}).document() == {**DOCUMENT, "later": [1]}


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_any_bit_flipped(at: int, bit: int) -> None:
    """Is Corrupt, or changes nothing of the document (the case of a hex digit in an escape)."""
    data = bytearray(seal({**DOCUMENT, "workspace": "/\u00e9"}))
    data[at % len(data)] ^= 1 << bit
    try:
        assert unseal(bytes(data), "snapshot", "d") == {**DOCUMENT, "workspace": "/\u00e9"}
    except Corrupt as error:
        assert "d: " in error.message


@given(st.sampled_from(PATHS), JSON)
def test_a_field_of_another_type(path: tuple[Any, ...], value: Any) -> None:
    """Sealed properly but not what it should be: refused, or harmless to all that rely on metadata."""
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    try:
        found = read(document)
        catalog.summary(found)
        needs.of(found)
        assert found.readable_keys and found.seal()
    except PoorwillError as error:
        assert error.message


@pytest.mark.parametrize("path", [path for path in PATHS if path != ("parts", 0)], ids=str)
def test_a_field_that_is_missing(path: tuple[Any, ...]) -> None:
    """Is named."""
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    if path == ("left_out", 0):
        assert read(document).left_out == ()
        return
    with pytest.raises(Corrupt, match=f"{path[-1]}"):
        read(document)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("manifest", {"key": "manifests/other/" + SNAPSHOT_ID, "bytes": 1, "blake3": "00"}),
        ("parts", [{"key": "manifests/m/" + SNAPSHOT_ID, "bytes": 1, "borrowed": False}]),
        ("parts", [{"key": f"parts/../{SNAPSHOT_ID}/00", "bytes": 1, "borrowed": False}]),
        ("machine", "../x"),
        ("snapshot_id", "x"),
        ("left_out_count", -1),
        ("left_out_count", True),
        ("left_out_count", 1 << 63),
    ],
)
def test_values_that_reach_too_far(field: str, value: Any) -> None:
    """Metadata cannot have an engine granted anything but its own manifest and parts."""
    with pytest.raises(Corrupt):
        read({**DOCUMENT, field: value})


def test_other_versions_and_kinds() -> None:
    """A later version is Unsupported, another kind Corrupt, and floats are not sealed."""
    with pytest.raises(Unsupported, match="use a newer"):
        read({**DOCUMENT, "format": "poorwill-snapshot/2"})
    with pytest.raises(Corrupt, match="poorwill-pending"):
        read({**DOCUMENT, "format": "poorwill-pending/1"})
    with pytest.raises(TypeError, match="floats"):
        seal({**DOCUMENT, "totals": {"raw_bytes": 1.5}})


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", b"[]", b"null", b"{", b'{"format": "poorwill-snapshot/1"}', b"[" * 100_000,
        b'{"a": ' * 2000 + b"1" + b"}" * 2000, b'{"a": ' + b"9" * 10_000 + b"}", b'{"a": NaN}',
        b'{"checksum": {"a": 1}}', b" " * (limits.DOCUMENT_BYTES_MAX + 1),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_document(data: bytes) -> None:
    """Also JSON nested deeper than any stack, and numbers longer than any integer."""
    with pytest.raises(Corrupt, match="metadata: "):
        unseal(data, "snapshot", "metadata")


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    """Whatever they are."""
    with pytest.raises(PoorwillError):
        unseal(data, "snapshot", "d")


def test_the_checksum_is_the_documented_one() -> None:
    """Keys sorted, no spaces, ASCII, without the checksum itself: a vector of docs/snapshot-format.md."""
    data = seal({"format": "poorwill-other/1", "b": 1, "a": "\u00e9"})
    assert json.loads(data)["checksum"] == ("blake3:763a4f7f6b49fef1ade3c9f9916cb10c5d38dec0911480506e75d345edfde8b5")
