"""The record of a video: what is written is read, and what cannot be read says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from poorwill.errors import Corrupt, Unsupported
from poorwill.media import delivery
from poorwill.store.local import LocalStore

RUN = "3c0f2a5e-0000-4000-8000-000000000000"
FACTS = {
    "model": "tiny", "parameters": {"prompt": "a", "guidance": 1.5, "height": None}, "image": {"origin": "https://x/y"},
    "video": {"frames": 9, "fps": 8.0}, "timings_ms": {"load": 3}, "inference_began_at": 1_767_323_045.25,
}  # fmt: skip
KEY = delivery.key_of(RUN, "record")


@pytest.fixture
def delivered(local_store: LocalStore, tmp_path: Path) -> dict[str, Any]:
    """The document in the store."""
    paths = [tmp_path / name for name in ("video.mp4", "poster.jpg", "sheet.jpg")]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * number)
    delivery.deliver(local_store, RUN, delivery.Files(*paths), FACTS)
    return dict(json.loads(local_store.get(KEY)))


def test_what_is_written_is_read(local_store: LocalStore, delivered: dict[str, Any]) -> None:
    """With the fields in their order, and with those that this version does not know."""
    sizes = {"video": 0, "poster": 1, "contact_sheet": 2}
    assert delivered == {"format": 1, "run": RUN, "bytes": sizes, **FACTS}
    assert list(delivered) == ["format", "run", "bytes", *FACTS]
    found = delivery.delivered(local_store, RUN)
    assert found is not None and found.document() == delivered
    local_store.put(KEY, json.dumps({**delivered, "later": [1.5]}).encode())
    found = delivery.delivered(local_store, RUN)
    assert found is not None and found.document() == {**delivered, "later": [1.5]}
    assert delivery.delivered(local_store, "another") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": None}, "its version of the video format is None"),
        ({"format": "1"}, "its version of the video format is '1'"),
        ({"format": True}, "its version of the video format is True"),
        ({"run": 1}, "field 'run' is 1, expected text"),
        ({"bytes": {"video": -1}}, "field 'bytes.video' is -1, expected an integer"),
        ({"parameters": []}, r"field 'parameters' is \[\], expected an object"),
        ({"inference_began_at": "now"}, "field 'inference_began_at' is 'now', expected a finite number"),
        *(({name: ...}, f"field '{name}' is missing") for name in ("run", "bytes", *FACTS)),
    ],
    ids=str,
)
def test_one_that_does_not_fit(
    local_store: LocalStore, delivered: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    """Corrupt, with its place and the field; a run that begins anew may make its video again."""
    document = {name: value for name, value in {**delivered, **change}.items() if value is not ...}
    local_store.put(KEY, json.dumps(document).encode())
    with pytest.raises(Corrupt, match=f"^file:.*{KEY}: {message}.*: delete it to generate the video again$"):
        delivery.delivered(local_store, RUN)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b"{"], ids=range(6))
def test_one_that_is_no_json_object(local_store: LocalStore, data: bytes) -> None:
    """Whatever it is."""
    local_store.put(KEY, data)
    with pytest.raises(Corrupt, match="delete it to generate the video again"):
        delivery.delivered(local_store, RUN)


def test_a_later_version(local_store: LocalStore, delivered: dict[str, Any]) -> None:
    """Is not deleted for that: a newer poorwill reads it."""
    local_store.put(KEY, json.dumps({"format": 2}).encode())
    with pytest.raises(Unsupported, match=f"{KEY}: version 2 of the video format.* use a newer poorwill$"):
        delivery.delivered(local_store, RUN)
